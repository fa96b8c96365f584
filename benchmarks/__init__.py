"""What telemetry costs, measured in the same run for this package and for what one would install instead of it.

    python -m benchmarks            real servers under load: CPU time per request, latency    (make bench)
    python -m benchmarks.direct     the same apps called in process: stable microseconds, to compare before and after

From the bottom up: `database` has the rows that the apps read, `variants` are the apps, `sink` is the collector, `load`
the load generator, `table` the arithmetic; `overhead` and `direct` measure.
"""
