"""The published ratios: CPU that otel_fastperf adds to a request, all threads, divided by what `stock` adds.

`python -m benchmarks.direct` measures them. `benchmarks.guard` fails when one is over `TOLERANCE` times its figure.
"""

from collections.abc import Mapping
from typing import Final

TOLERANCE: Final = 1.5

#: variant -> endpoint -> ratio to `stock`
PUBLISHED: Final[Mapping[str, Mapping[str, float]]] = {
    "fastperf": {"/ping": 0.27, "/items": 0.50, "/report": 0.75, "/items-sync": 0.45, "/report-sync": 0.66},
    "fastperf_10pct": {"/ping": 0.26, "/items": 0.50, "/report": 0.75, "/items-sync": 0.41, "/report-sync": 0.60},
}
