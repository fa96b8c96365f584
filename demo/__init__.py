"""A small shop with one faulty endpoint for each bottleneck of FastAPI services, and a fixed twin beside it.

    python -m demo           start the shop, drive it for 30 s, print its telemetry     (make demo)
    python -m demo serve     keep the shop running under load until Ctrl-C              (make demo-serve)
    uvicorn demo.app:app     the shop alone

From the bottom up: `models`, `database`, `burning`, `seed`, `routers`, `bottlenecks`, `service` and `app` are the shop;
`load`, `server`, `worker`, `capture`, `scrapes`, `waterfall`, `summary`, `terminal` and `__main__` drive it and print
its telemetry.
"""
