"""A plugin of pytest that observes each app and engine of its process, see `guests`."""

from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from otel_fastperf.zero_code.apps import observe_apps

#: sees the engines of tests without an app; kept, because telemetry ends with its app
_APP: Final = FastAPI()
setup_telemetry(_APP)
observe_apps()
