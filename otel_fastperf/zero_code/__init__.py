"""Observes FastAPI apps whose code does not call `setup_telemetry`.

    otel-fastperf run uvicorn shop:app      puts `startup/` on the PYTHONPATH of the server and its workers: each Python
                                            process imports its `sitecustomize` first
    opentelemetry-instrument uvicorn …      loads `distro`, named by the entry points of this package

Both call `apps.observe_apps`, which sets an app up when it is called first, before its lifespan begins.
"""
