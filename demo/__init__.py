"""A small shop, with one endpoint per bottleneck that FastAPI services have, and its fixed twin.

    python -m demo           start it, drive it for 20 s, print what its telemetry says     (make demo)
    python -m demo serve     keep it running under load until Ctrl-C                        (make demo-serve)
    uvicorn demo.app:app     the service alone

From the bottom up: `models`, `database`, `seed`, `routers`, `bottlenecks`, `service`, `app` are the service;
`load`, `server`, `worker`, `recording`, `figures`, `waterfall`, `report`, `terminal`, `__main__` drive it and show
what it said.
"""
