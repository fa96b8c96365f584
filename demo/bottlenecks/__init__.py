"""The kinds of bottlenecks in FastAPI services, one file each: the faulty endpoint and its fixed twin.

Faulty endpoints are under `/slow/`, their twins under `/fast/`. Twins give the same answer, so they differ only in the
fault. Each faulty endpoint has exactly one fault: none blocks the event loop for 100 ms except those that demonstrate
it. Faults that burn CPU are calibrated (see `demo.burning`). `demo.catalogue` lists all of them with the line to blame.
"""
