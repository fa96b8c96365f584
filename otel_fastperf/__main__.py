"""`python -m otel_fastperf`: the command `otel-fastperf`."""

import sys

from otel_fastperf.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
