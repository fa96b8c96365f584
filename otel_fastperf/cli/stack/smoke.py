"""Check a running stack: send a trace, find it in Jaeger, its log record in Loki if there is one, query the others.

`otel-fastperf stack smoke`, or `make stack-smoke` in a checkout. All requests go to the ports published on this
machine. A failed step names a remedy.
"""

import argparse
import json
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TextIO
from urllib.parse import urlencode

from otel_fastperf.cli.http_client import NoResponseError, http_request
from otel_fastperf.cli.stack.files import ENVIRONMENT, PROJECT, Answers, read_manifest, variables
from otel_fastperf.cli.stack.scraping import down, is_app, job, remedy, shown
from otel_fastperf.errors import SmokeError, StackError

#: service name of the test trace; not an app's, so that no dashboard counts it
SERVICE: Final = "otel-fastperf-smoke"
_RESOURCE: Final = {"attributes": [{"key": "service.name", "value": {"stringValue": SERVICE}}]}
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
    loki: str = "http://127.0.0.1:3100"

    @classmethod
    def of(cls, directory: Path, environ: Mapping[str, str]) -> "Addresses":
        """The addresses from the environment, from `.env` in this directory, or the defaults of docker-compose.yml.

        Raises:
            SmokeError: A port is not a number.
        """
        file = directory / ENVIRONMENT
        values = {**(variables(file.read_text("utf-8")) if file.is_file() else {}), **environ}

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
            loki=at("LOKI_PORT", 3100),
        )


def smoke(
    addresses: Addresses,
    *,
    seconds: float = _WAIT_SECONDS,
    apps: Sequence[str] = (),
    folder: Path = Path(),
    project: str = PROJECT,
    output: TextIO | None = None,
) -> int:
    """Run all steps within `seconds` and print each; return 0 if all succeed, otherwise 1.

    It is a failure if Prometheus cannot scrape one of `apps` (service names). Other apps only cause a note.
    Remedies name the stack's `folder`, and `project`, by which Compose knows it.
    """
    output = output or sys.stdout
    of = f" --project-directory {shlex.quote(str(folder))}" if folder != Path() else ""
    deadline = time.monotonic() + seconds
    stack = _SmokeRun(addresses, deadline, compose=f"docker compose{of}", network=f"{project}_default")
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

    def __init__(self, addresses: Addresses, deadline: float, *, compose: str, network: str) -> None:
        self._at = addresses
        self._deadline = deadline
        self._compose = compose
        self._network = network
        self._trace_id = secrets.token_hex(16)

    def steps(self, apps: Sequence[str]) -> Iterator[tuple[str, Callable[[], str]]]:
        """Names and steps; a step returns its result, or raises."""
        yield "Jaeger", lambda: self._ready("jaeger", f"{self._at.jaeger}/api/v3/services")
        yield "Prometheus", lambda: self._ready("prometheus", f"{self._at.prometheus}/-/ready")
        yield "Alertmanager", lambda: self._ready("alertmanager", f"{self._at.alertmanager}/-/ready")
        yield "Grafana", self._grafana
        yield "Collector", self._send
        yield "Trace", self._find
        yield "Logs", self._logs
        yield "Targets", self._stack_targets
        yield "Apps", lambda: self._app_targets(apps)

    def _ready(self, service: str, url: str) -> str:
        self._until(service, url, lambda: _get(url))
        return url

    def _grafana(self) -> str:
        url = f"{self._at.grafana}/api/health"
        health = self._until("grafana", url, lambda: _json(_get(url)))
        if health.get("database") != "ok":
            message = f"{url} says its database is {health.get('database')!r}. Remedy: `{self._compose} logs grafana`"
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

    def _logs(self) -> str:
        """Send a log record of the trace and find it, if the collector takes any: without a log store it does not."""
        url = f"{self._at.collector}/v1/logs"
        record = _record(self._trace_id, time.time_ns())

        def taken() -> str:
            try:
                return "yes" if _post(url, record) else ""
            except _StatusError as error:
                if error.status == HTTPStatus.NOT_FOUND:
                    return "never"
                raise

        if self._until("otel-collector", url, taken) == "never":
            message = "no log store, so log records are refused with 404. Remedy, if you want one: compose.logs.yml"
            raise _Hint(message)
        query = {"query": f'{{service_name="{SERVICE}"}} | trace_id = `{self._trace_id}`', "since": "1h"}
        at = f"{self._at.loki}/loki/api/v1/query_range?{urlencode(query)}"
        self._until(
            "otel-collector loki",
            self._at.loki,
            lambda: _json(_get(at))["data"]["result"],
            what=lambda: f"the record of {self._trace_id} did not arrive in Loki",
        )
        return f"found by its trace id at {self._at.loki}"

    def _stack_targets(self) -> str:
        seen: list[dict[str, Any]] = []

        def up() -> list[dict[str, Any]]:
            seen[:] = [target for target in self._targets() if not is_app(target)]
            return [] if down(seen) else seen

        def why() -> str:
            return f"Prometheus cannot scrape{shown(down(seen)) or ': it has no such target'}"

        targets = self._until("prometheus", self._at.prometheus, up, what=why)
        return f"Prometheus scrapes {', '.join(sorted({str(target['scrapePool']) for target in targets}))}"

    def _app_targets(self, needed: Sequence[str]) -> str:
        for name in needed:
            self._app(name)
        targets = self._until("prometheus", self._at.prometheus, self._targets)
        apps = [target for target in targets if is_app(target)]
        if up := sorted({job(target) for target in apps if target.get("health") == "up"}):
            return f"Prometheus scrapes {', '.join(up)}"
        seen = shown(down(apps)) or " no target in deploy/prometheus/targets"
        message = f"not scraped:{seen}. Remedy: {remedy(apps, '', self._network)}"
        raise _Hint(message)

    def _app(self, name: str) -> None:
        """Wait until Prometheus scrapes all targets of a service, of which there must be one."""
        targets: list[dict[str, Any]] = []

        def up() -> bool:
            targets[:] = self._targets()
            found = [target for target in targets if is_app(target, name)]
            return bool(found) and not down(found)

        def why() -> str:
            if seen := shown(down([target for target in targets if is_app(target, name)])):
                return f"{name} is not scraped:{seen}"
            others = ", ".join(sorted({job(target) for target in targets if is_app(target)}))
            return f"{name} is no target of Prometheus{f', but {others}' if others else ''}"

        def cure() -> str:
            return remedy(down([target for target in targets if is_app(target, name)]), name, self._network)

        self._until("prometheus", self._at.prometheus, up, what=why, cure=cure)

    def _targets(self) -> list[dict[str, Any]]:
        answer = _json(_get(f"{self._at.prometheus}/api/v1/targets?state=active"))
        targets: list[dict[str, Any]] = answer.get("data", {}).get("activeTargets", [])
        return targets

    def _until(
        self,
        services: str,
        url: str,
        ask: Callable[[], Any],
        *,
        what: Callable[[], str] = lambda: "nothing yet",
        cure: Callable[[], str] | None = None,
    ) -> Any:
        """Call `ask` until it returns a true value or the deadline passes.

        The error says `what` is wrong, and its `cure`; the services' logs, unless `ask` got an answer that has another.

        Raises:
            SmokeError: The deadline has passed.
        """
        logs = f"`{self._compose} ps`, then `{self._compose} logs {services}`"
        while True:
            try:
                if answer := ask():
                    return answer
                message = f"{what()}. Remedy: {cure() if cure else logs}"
            except (NoResponseError, _StatusError, ValueError) as error:
                message = f"{url} {_reason(error)}. Remedy: {logs}"
            if time.monotonic() > self._deadline:
                raise SmokeError(message)
            time.sleep(_PAUSE_SECONDS)


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
        # tail sampling keeps traces with a finding
        "attributes": [{"key": "fastperf.findings", "value": {"stringValue": "smoke"}}],
    }
    scope = {"scope": {"name": "otel_fastperf.cli.stack.smoke"}, "spans": [span]}
    return json.dumps({"resourceSpans": [{"resource": _RESOURCE, "scopeSpans": [scope]}]}).encode()


def _record(trace_id: str, now: int) -> bytes:
    """A log record in a trace, as OTLP in JSON; `now` in nanoseconds."""
    record = {
        "timeUnixNano": str(now),
        "severityNumber": 9,
        "severityText": "INFO",
        "body": {"stringValue": "smoke"},
        "traceId": trace_id,
    }
    scope = {"scope": {"name": "otel_fastperf.cli.stack.smoke"}, "logRecords": [record]}
    return json.dumps({"resourceLogs": [{"resource": _RESOURCE, "scopeLogs": [scope]}]}).encode()


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
        help="require that Prometheus scrapes this app; repeatable (default: the one that `stack init` was told)",
    )
    parser.add_argument("--stack-only", action="store_true", help="require no app")


def run(options: argparse.Namespace) -> int:
    """Run with the options of `add_options`; returns the exit code, 0 or 1."""
    folder: Path = options.directory
    if not folder.is_dir():
        sys.stderr.write(f"DIR={folder}: must be the stack's folder, but there is none. Remedy: correct the path.\n")
        return 1
    try:
        addresses = Addresses.of(folder, os.environ)
        manifest = read_manifest(folder)
    except (SmokeError, StackError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    made = manifest.answers if manifest else Answers()
    apps = [] if options.stack_only else options.app or _told(made)
    return smoke(addresses, seconds=options.wait, apps=apps, folder=folder, project=made.project)


def _told(made: Answers) -> list[str]:
    """The service that `stack init` was told about, by its name or its address."""
    usual = Answers()
    return [made.service] if (made.service, made.targets) != (usual.service, usual.targets) else []


if __name__ == "__main__":
    sys.exit(main())
