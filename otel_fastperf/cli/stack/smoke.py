"""Check a running stack: send a trace, find it in Jaeger, query the other servers.

`otel-fastperf stack smoke`, or `make stack-smoke` in a checkout. All requests go to the ports published on this
machine. A failed step names a remedy.
"""

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TextIO

from otel_fastperf.cli.http_client import NoResponseError, http_request
from otel_fastperf.cli.stack.files import ENVIRONMENT, variables
from otel_fastperf.errors import SmokeError

#: service name of the test trace; not an app's, so that no dashboard counts it
SERVICE: Final = "otel-fastperf-smoke"
#: job in prometheus.yml whose targets are the user's apps; all others are the stack's
APPS: Final = "app"

_WAIT_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.5
#: timeout of one request
_PATIENCE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """URLs of the published ports, without a trailing slash."""

    collector: str = "http://127.0.0.1:4318"
    jaeger: str = "http://127.0.0.1:16686"
    prometheus: str = "http://127.0.0.1:9090"
    alertmanager: str = "http://127.0.0.1:9093"
    grafana: str = "http://127.0.0.1:3000"

    @classmethod
    def of(cls, directory: Path, environ: Mapping[str, str]) -> "Addresses":
        """The addresses from the environment, from `.env` in this directory, or the defaults of docker-compose.yml.

        Raises:
            SmokeError: A port is not a number.
        """
        file = directory / ENVIRONMENT
        values = {**(variables(file.read_text()) if file.is_file() else {}), **environ}

        def at(name: str, default: int) -> str:
            port = values.get(name) or str(default)
            if not port.isdecimal():
                message = f"{name}={port}: must be a port number. Remedy: set it to a number in .env"
                raise SmokeError(message)
            return f"http://127.0.0.1:{port}"

        return cls(
            collector=at("COLLECTOR_HTTP_PORT", 4318),
            jaeger=at("JAEGER_PORT", 16686),
            prometheus=at("PROMETHEUS_PORT", 9090),
            alertmanager=at("ALERTMANAGER_PORT", 9093),
            grafana=at("GRAFANA_PORT", 3000),
        )


def smoke(
    addresses: Addresses,
    *,
    seconds: float = _WAIT_SECONDS,
    apps: Sequence[str] = (),
    output: TextIO | None = None,
) -> int:
    """Run all steps within `seconds` and print each; return 0 if all succeed, otherwise 1.

    It is a failure if Prometheus cannot scrape one of `apps` (service names). Other apps only cause a note.
    """
    output = output or sys.stdout
    stack = _SmokeRun(addresses, time.monotonic() + seconds)
    failed = 0
    for name, step in stack.steps(apps):
        try:
            mark, said = "ok", step()
        except _Hint as hint:
            mark, said = "note", str(hint)
        except SmokeError as error:
            mark, said = "FAILED", str(error)
            failed += 1
        output.write(f"{mark:<8}{name:<14}{said}\n")
        output.flush()
    output.write(f"\n{failed} step{'s' * (failed != 1)} failed.\n" if failed else _addresses(addresses))
    return int(failed > 0)


def _addresses(addresses: Addresses) -> str:
    lines = (
        ("Dashboards", f"{addresses.grafana}  (admin, password in secrets/grafana_admin_password)"),
        ("Traces", addresses.jaeger),
        ("Metrics", f"{addresses.prometheus}/targets"),
        ("Alerts", addresses.alertmanager),
        ("Send to", f"OTEL_EXPORTER_OTLP_ENDPOINT={addresses.collector}"),
    )
    return "\n" + "".join(f"{what:<12}{where}\n" for what, where in lines)


class _Hint(Exception):  # noqa: N818 - not an error
    """A note that does not fail the check."""


class _StatusError(Exception):
    """A server responded with a status that is not a success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"responds {status}")
        self.status: Final = status


class _SmokeRun:
    """One run against a stack, until a deadline on the clock of `time.monotonic()`."""

    def __init__(self, addresses: Addresses, deadline: float) -> None:
        self._at = addresses
        self._deadline = deadline
        self._trace_id = secrets.token_hex(16)

    def steps(self, apps: Sequence[str]) -> Iterator[tuple[str, Callable[[], str]]]:
        """Names and steps; a step returns its result, or raises."""
        yield "Jaeger", lambda: self._ready("jaeger", f"{self._at.jaeger}/api/v3/services")
        yield "Prometheus", lambda: self._ready("prometheus", f"{self._at.prometheus}/-/ready")
        yield "Alertmanager", lambda: self._ready("alertmanager", f"{self._at.alertmanager}/-/ready")
        yield "Grafana", self._grafana
        yield "Collector", self._send
        yield "Trace", self._find
        yield "Targets", self._stack_targets
        yield "Apps", lambda: self._app_targets(apps)

    def _ready(self, service: str, url: str) -> str:
        self._until(service, url, lambda: _get(url))
        return url

    def _grafana(self) -> str:
        url = f"{self._at.grafana}/api/health"
        health = self._until("grafana", url, lambda: _json(_get(url)))
        if health.get("database") != "ok":
            message = f"{url} says its database is {health.get('database')!r}. Remedy: `docker compose logs grafana`"
            raise SmokeError(message)
        return f"{self._at.grafana}, version {health.get('version')}"

    def _send(self) -> str:
        url = f"{self._at.collector}/v1/traces"
        self._until("otel-collector", url, lambda: _post(url, _trace(self._trace_id, time.time_ns())))
        return f"accepted a trace at {url}"

    def _find(self) -> str:
        url = f"{self._at.jaeger}/api/v3/traces/{self._trace_id}"

        def found() -> bool:
            try:
                return SERVICE.encode() in _get(url)
            except _StatusError as error:
                if error.status == HTTPStatus.NOT_FOUND:  # not there yet
                    return False
                raise

        self._until("otel-collector jaeger", url, found, what=lambda: f"{self._trace_id} did not arrive in Jaeger")
        return f"{self._at.jaeger}/trace/{self._trace_id}"

    def _stack_targets(self) -> str:
        up = self._all_up(lambda target: target.get("scrapePool") != APPS)
        return f"Prometheus scrapes {', '.join(sorted({str(target['scrapePool']) for target in up}))}"

    def _app_targets(self, needed: Sequence[str]) -> str:
        for name in needed:
            self._all_up(partial(_is_app, name))
        targets = self._until("prometheus", self._at.prometheus, self._targets)
        apps = [target for target in targets if target.get("scrapePool") == APPS]
        if up := sorted({_job(target) for target in apps if target.get("health") == "up"}):
            return f"Prometheus scrapes {', '.join(up)}"
        seen = _down(apps) or " no target in deploy/prometheus/targets"
        message = f"not scraped:{seen}. Remedy: start the app so that containers can reach it (uvicorn --host 0.0.0.0)"
        raise _Hint(message)

    def _all_up(self, wanted: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
        """The matching targets, once there is at least one and all are up."""
        seen: list[dict[str, Any]] = []

        def up() -> list[dict[str, Any]]:
            seen[:] = [target for target in self._targets() if wanted(target)]
            return [] if _down(seen) else seen

        def why() -> str:
            return f"Prometheus cannot scrape{_down(seen) or ': it has no such target'}"

        answer: list[dict[str, Any]] = self._until("prometheus", self._at.prometheus, up, what=why)
        return answer

    def _targets(self) -> list[dict[str, Any]]:
        answer = _json(_get(f"{self._at.prometheus}/api/v1/targets?state=active"))
        targets: list[dict[str, Any]] = answer.get("data", {}).get("activeTargets", [])
        return targets

    def _until(
        self, services: str, url: str, ask: Callable[[], Any], *, what: Callable[[], str] = lambda: "nothing yet"
    ) -> Any:
        """Call `ask` until it returns a true value or the deadline passes.

        Raises:
            SmokeError: The deadline has passed.
        """
        while True:
            try:
                if answer := ask():
                    return answer
                why = what()
            except (NoResponseError, _StatusError, ValueError) as error:
                why = f"{url} {_reason(error)}"
            if time.monotonic() > self._deadline:
                message = f"{why}. Remedy: `docker compose ps`, then `docker compose logs {services}`"
                raise SmokeError(message)
            time.sleep(_PAUSE_SECONDS)


def _is_app(name: str, target: Mapping[str, Any]) -> bool:
    return target.get("scrapePool") == APPS and _job(target) == name


def _job(target: Mapping[str, Any]) -> str:
    return str(target.get("labels", {}).get("job"))


def _down(targets: Sequence[Mapping[str, Any]]) -> str:
    """` URL (reason)` for each target that is not up; "" if all are up."""
    return "".join(
        f" {target.get('scrapeUrl')} ({target.get('lastError') or 'not scraped yet'})"
        for target in targets
        if target.get("health") != "up"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, _StatusError):
        return str(error)
    if isinstance(error, NoResponseError):
        return "refuses the connection: nothing listens there" if error.refused else f"does not respond ({error})"
    return f"does not respond as expected ({error})"


def _trace(trace_id: str, now: int) -> bytes:
    """A trace with one span, as OTLP in JSON; `now` in nanoseconds."""
    span = {
        "traceId": trace_id,
        "spanId": secrets.token_hex(8),
        "name": "smoke",
        "kind": 1,  # internal, because the Monitor tab counts only requests
        "startTimeUnixNano": str(now - 1_000_000),
        "endTimeUnixNano": str(now),
    }
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": SERVICE}}]}
    scope = {"scope": {"name": "otel_fastperf.cli.stack.smoke"}, "spans": [span]}
    return json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}).encode()


def _get(url: str) -> bytes:
    return _ask("GET", url)


def _post(url: str, body: bytes) -> bytes:
    return _ask("POST", url, headers={"content-type": "application/json"}, body=body)


def _ask(method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> bytes:
    """The body of a success; never empty, so that it is true.

    Raises:
        NoResponseError: There was no response.
        _StatusError: The response is not a success.
    """
    response = http_request(method, url, headers=headers, body=body, timeout=_PATIENCE_SECONDS, follow_redirects=True)
    if not response.is_success:
        raise _StatusError(response.status)
    return response.body or b" "


def _json(body: bytes) -> dict[str, Any]:
    """Decode a JSON object.

    Raises:
        ValueError: The body is not a JSON object.
    """
    found = json.loads(body)
    if not isinstance(found, dict):
        message = "not a JSON object"
        raise ValueError(message)  # noqa: TRY004 - as json.loads does
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the stack on this machine; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m otel_fastperf.cli.stack.smoke", description=__doc__)
    add_options(parser)
    return run(parser.parse_args(arguments))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `run` reads."""
    parser.add_argument(
        "directory", nargs="?", type=Path, default=Path(), help="folder of docker-compose.yml (default: .)"
    )
    parser.add_argument("--wait", type=float, default=_WAIT_SECONDS, metavar="SECONDS", help="time limit (default: 60)")
    parser.add_argument(
        "--app",
        action="append",
        default=[],
        metavar="SERVICE",
        help="require that Prometheus scrapes this app; repeatable",
    )


def run(options: argparse.Namespace) -> int:
    """Run with the options of `add_options`; returns the exit code, 0 or 1."""
    try:
        addresses = Addresses.of(options.directory, os.environ)
    except SmokeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return smoke(addresses, seconds=options.wait, apps=options.app)


if __name__ == "__main__":
    sys.exit(main())
