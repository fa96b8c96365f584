"""The cost of telemetry, measured in the same run for this package and for the alternatives.

    python -m benchmarks            real servers under load: CPU time per request, latency    (make bench)
    python -m benchmarks.direct     the same apps called in process: stable microseconds, to compare before and after
    python -m benchmarks.guard      a short run of these, which fails if a change costs too much    (make bench-check)

From the bottom up: `database` has the rows that the apps read, `variants` the apps; `sink` stands for the collector,
`load` is the load generator, `table` the arithmetic; `overhead` and `direct` measure,
`guard` compares with `figures`.
"""
