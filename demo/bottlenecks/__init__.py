"""The ten bottlenecks of FastAPI services, a file each: the faulty endpoint, and its fixed twin.

The faulty ones are under `/slow/`, the twins under `/fast/`. Twins answer the same, so that what differs is the fault
alone. Each faulty one has its own fault and no other: none holds the event loop for 100 ms, except those that are there
to do so. `demo.catalogue` lists them with the line at fault.
"""
