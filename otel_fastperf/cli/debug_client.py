"""Read the debug route of a running service, for the commands `doctor` and `allocations`."""

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from otel_fastperf.cli.http_client import HttpResponse, NoResponseError, http_request
from otel_fastperf.errors import AskingError
from otel_fastperf.internals.text_safety import printable

DEFAULT_URL: Final = "http://127.0.0.1:8000"
#: time-out of a report; long, because a service with a blocked event loop responds late
_REPORT_SECONDS: Final = 15.0
#: added to the seconds for which allocations are traced
_MARGIN_SECONDS: Final = 30.0
#: characters of foreign text in an error message
_LONGEST_SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class Service:
    """A service's debug route at `url`, which is `http://host:port/path`."""

    url: str
    token: str | None = None

    @classmethod
    def at(cls, target: str, *, path: str, token: str | None = None) -> "Service":
        """The debug route of the service at `target`, such as `:8000`, `shop:8000` or `https://shop/debug`.

        `path` applies if `target` has none.

        Raises:
            AskingError: `target` is not a URL, or the token is not one line.
        """
        if token is not None and not token.isprintable():
            message = "The token contains a line break or another control character. Remedy: pass it as one line."
            raise AskingError(message)
        url = target if "://" in target else f"http://{'127.0.0.1' * target.startswith(':')}{target}"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = None, None
        if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
            message = f"{target} is not the URL of a service. Remedy: pass one like {DEFAULT_URL}."
            raise AskingError(message)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        # servers print this address when they listen on all of them
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - nothing is bound
        netloc = host if port is None else f"{host}:{port}"
        return cls(urlunsplit((parts.scheme, netloc, parts.path.rstrip("/") or path, "", "")), token)

    def report(self) -> str:
        """Fetch the report as JSON text.

        Raises:
            AskingError: The service did not provide it.
        """
        return self._ask("GET", self.url, timeout=_REPORT_SECONDS)

    def allocations(self, seconds: float) -> dict[str, Any]:
        """Trace allocations in the service for `seconds`, and fetch the `AllocationReport` as a dict.

        Raises:
            AskingError: The service did not provide it.
        """
        text = self._ask("POST", f"{self.url}?allocations={seconds:g}", timeout=seconds + _MARGIN_SECONDS)
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("sites"), list):
            raise AskingError(self._not_ours())
        return found

    def _ask(self, method: str, url: str, *, timeout: float) -> str:
        headers = {"accept": "application/json"}
        if self.token:
            # http.client encodes headers as latin-1: this passes on the token's UTF-8 bytes
            headers["authorization"] = "Bearer " + self.token.encode(errors="surrogateescape").decode("latin-1")
        try:
            response = http_request(method, url, headers=headers, timeout=timeout)
        except NoResponseError as error:
            raise AskingError(self._silent(timeout) if error.timed_out else self._unreachable(error)) from None
        if response.status != HTTPStatus.OK:
            raise AskingError(self._refused(response))
        return response.body.decode(errors="replace")

    def _refused(self, response: HttpResponse) -> str:
        match response.status:
            case 401 if self.token:
                why = "rejects this token. Remedy: pass the service's OTEL_FASTPERF_DEBUG_TOKEN with --token"
            case 401:
                why = (
                    "requires a token. Remedy: pass the service's OTEL_FASTPERF_DEBUG_TOKEN with --token, or set that"
                    " variable here"
                )
            case 404:
                why = (
                    "responds 404 (not found). Without a token the debug route serves only its own machine, and no"
                    " proxy; or the path differs; or the route is off. Remedy: run this command in the service's"
                    " container, or set OTEL_FASTPERF_DEBUG_TOKEN for both; pass the service's OTEL_FASTPERF_DEBUG_PATH"
                    " with --path; check that OTEL_FASTPERF_DEBUG_ENABLED is not false and that the service calls"
                    " setup_telemetry(app)"
                )
            case 409:
                why = "is already tracing allocations. Remedy: try again in a minute"
            case status if 300 <= status < 400:  # noqa: PLR2004 - redirects
                where = printable(response.headers.get("location", "nowhere")[:_LONGEST_SHOWN])
                why = f"redirects to {where}, which is not followed. Remedy: pass the service's own address"
            case status:
                why = (
                    f"responds {status}. Remedy: look into the service's log, or pass the address of the service itself"
                )
        return f"{self.url} {why}."

    def _silent(self, timeout: float) -> str:
        return (
            f"{self.url} did not respond within {timeout:.0f} s. Its event loop may be blocked right now. Remedy: look"
            " for `event loop blocked` in the service's log, or try again."
        )

    def _unreachable(self, error: NoResponseError) -> str:
        if error.refused:
            what = "nothing listens there. Remedy: start the service, or pass its address as http://HOST:PORT"
        else:
            reason = printable(str(error)[:_LONGEST_SHOWN])
            what = f"{reason}. Remedy: pass the address of the service as http://HOST:PORT"
        return f"{self.url} cannot be reached: {what}."

    def _not_ours(self) -> str:
        return (
            f"{self.url} did not respond with a result of otel-fastperf. Remedy: pass the service's"
            " OTEL_FASTPERF_DEBUG_PATH with --path."
        )
