"""Asks a running service for its debug route: `doctor` and `allocations` of the command."""

import ipaddress
import json
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from typing import IO, Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from otel_fastperf.errors import AskingError

DEFAULT_URL: Final = "http://127.0.0.1:8000"
#: how long a report may take: a service whose event loop is held answers late, and that is when one asks
_REPORT_SECONDS: Final = 15.0
#: on top of the seconds for which allocations are traced
_MARGIN_SECONDS: Final = 30.0
#: a report has some 100 kB
_MOST_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Service:
    """A service's debug route. `url` is `http://host:port/path`."""

    url: str
    token: str | None = None

    @classmethod
    def at(cls, target: str, *, path: str, token: str | None = None) -> "Service":
        """The route of the service at `target`: with or without `http://` and a host, with a path or to get this one.

        Raises:
            AskingError: That is no URL, or no token.
        """
        if token is not None and not token.isprintable():
            message = "The token holds a line break or the like. Cure: give it as one line."
            raise AskingError(message)
        url = target if "://" in target else f"http://{'127.0.0.1' * target.startswith(':')}{target}"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = None, None
        if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
            message = f"{target} is no URL of a service. Cure: write for instance {DEFAULT_URL}."
            raise AskingError(message)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        # what servers say they listen on, when it is every address
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - nothing is bound
        netloc = host if port is None else f"{host}:{port}"
        return cls(urlunsplit((parts.scheme, netloc, parts.path.rstrip("/") or path, "", "")), token)

    def report(self) -> str:
        """The report, as JSON text.

        Raises:
            AskingError: It cannot be had.
        """
        return self._ask("GET", self.url, timeout=_REPORT_SECONDS)

    def allocations(self, seconds: float) -> dict[str, Any]:
        """Have allocations traced for so long; `AllocationReport` as a dict.

        Raises:
            AskingError: It cannot be had.
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
        headers = {"accept": "application/json", "user-agent": "otel-fastperf"}
        if self.token:
            # http.client encodes as latin-1: these are the token's bytes in UTF-8
            headers["authorization"] = "Bearer " + self.token.encode(errors="surrogateescape").decode("latin-1")
        try:
            request = Request(url, method=method, headers=headers)  # noqa: S310 - `at` takes http and https only
            with _opener(urlsplit(url).hostname or "").open(request, timeout=timeout) as response:
                body: bytes = response.read(_MOST_BYTES)
        except HTTPError as error:
            with error:
                raise AskingError(self._refused(error)) from None
        except TimeoutError:
            raise AskingError(self._silent(timeout)) from None
        except (URLError, HTTPException, OSError, UnicodeError) as error:
            raise AskingError(self._unreachable(error, timeout)) from None
        return body.decode(errors="replace")

    def _refused(self, error: HTTPError) -> str:
        match error.code:
            case 401 if self.token:
                why = "wants another token than this one. Cure: give the service's OTEL_FASTPERF_DEBUG_TOKEN by --token"
            case 401:
                why = "wants a token. Cure: give the service's OTEL_FASTPERF_DEBUG_TOKEN by --token or as variable"
            case 404:
                why = (
                    "says there is no such page (404): without a token it answers only on its own machine, and not"
                    " through a proxy; or the path is another, or the route is switched off. Cure: run this in the"
                    " service's container, or set OTEL_FASTPERF_DEBUG_TOKEN for both; give OTEL_FASTPERF_DEBUG_PATH by"
                    " --path; see that OTEL_FASTPERF_DEBUG_ENABLED is not false and setup_telemetry(app) is called"
                )
            case 409:
                why = "traces allocations already. Cure: ask again when that is over, in a minute at most"
            case code if 300 <= code < 400:  # noqa: PLR2004 - redirections
                where = error.headers.get("location", "nowhere")
                why = f"sends one on to {_plain(where)}, which is not followed. Cure: give the service's own address"
            case code:
                why = f"answers {code}. Cure: look into the service's log, or give the address of the service itself"
        return f"{self.url} {why}."

    def _silent(self, timeout: float) -> str:
        return (
            f"{self.url} does not answer within {timeout:.0f} s: its event loop may be held right now. Cure: look for"
            " `event loop blocked` in the service's log, or ask again."
        )

    def _unreachable(self, error: Exception, timeout: float) -> str:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return self._silent(timeout)
        if isinstance(reason, ConnectionRefusedError):
            what = "nothing listens there. Cure: start the service, or give its address, as http://HOST:PORT"
        else:
            what = f"{_plain(str(reason)) or type(reason).__name__}. Cure: give the address of the service, as http://HOST:PORT"
        return f"{self.url} cannot be reached: {what}."

    def _not_ours(self) -> str:
        return (
            f"{self.url} answers with something else than otel-fastperf. Cure: give OTEL_FASTPERF_DEBUG_PATH by --path."
        )


class _NoRedirects(HTTPRedirectHandler):
    """The token is for one host, and no other one is to get it."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        """None: the redirection itself is the answer."""


def _opener(host: str) -> OpenerDirector:
    """Past HTTP_PROXY for this machine: a proxy's own is another one."""
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    return build_opener(_NoRedirects, *([ProxyHandler({})] if here else []))


def _plain(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(character for character in text[:200] if character.isprintable())
