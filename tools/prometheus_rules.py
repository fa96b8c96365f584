"""Writes deploy/kubernetes/monitoring/rules: `python -m tools.prometheus_rules`, or `make kubernetes`.

They are committed because kustomize, which reads them from a checkout or by a Git address, cannot wrap a file in an
object.
"""

from pathlib import Path
from typing import Final

from otel_fastperf.cli.stack.files import prometheus_rules, shipped

ROOT: Final = Path(__file__).parent.parent


def main() -> None:
    """Write the files."""
    for path, content in prometheus_rules(shipped(ROOT)).items():
        (ROOT / path).write_bytes(content)
        print(path)


if __name__ == "__main__":
    main()
