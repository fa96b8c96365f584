"""The options of `stack init`: each value is validated; an error names the option, the value, the rule and a remedy."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Final
from urllib.parse import urlsplit

from otel_fastperf.cli.stack.files import Answers
from otel_fastperf.cli.stack.generated import HOST
from otel_fastperf.errors import StackError
from otel_fastperf.metrics import HTTP_SECONDS

#: host names that mean the container itself inside a container
_LOOPBACK: Final = ("localhost", "127.0.0.1", "0.0.0.0", "[::1]", "[::]")  # noqa: S104 - nothing is bound
_TARGET: Final = re.compile(r"((?:[A-Za-z0-9](?:[\w.-]*\w)?|\[[0-9a-fA-F:.]+\])?):([0-9]{1,5})", re.ASCII)
_PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)
_MOST_PORT: Final = 65535
_LONGEST_NAME: Final = 255
#: burn rate of the fastest alert; it cannot fire if the budget is so large that even 100 % failures burn slower
_FAST_BURN: Final = Decimal("14.4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The options as typed; None or () if absent."""

    service: str | None = None
    targets: Sequence[str] = ()
    availability: str | None = None
    latency: str | None = None
    latency_threshold: str | None = None
    #: `GRAFANA_URL` -> address
    urls: Mapping[str, str] = field(default_factory=dict)
    project: str | None = None
    kubernetes: bool = False


def answers(given: Given, before: Answers) -> Answers:
    """Merge the given options with the previous answers.

    Raises:
        StackError: Values are invalid; the message has one line for each.
    """
    wrong: list[str] = []

    def checked(value: str | None, check: Callable[[str], str], otherwise: str) -> str:
        try:
            return otherwise if value is None else check(value)
        except StackError as error:
            wrong.append(str(error))
            return otherwise

    made = replace(
        before,
        service=checked(given.service, _service, before.service),
        targets=tuple(dict.fromkeys(checked(target, _target, "") for target in given.targets)) or before.targets,
        availability=checked(given.availability, _percent("--availability"), before.availability),
        latency=checked(given.latency, _percent("--latency"), before.latency),
        latency_threshold=checked(given.latency_threshold, _threshold, before.latency_threshold),
        urls={**before.urls, **{name: checked(url, _url(name), "") for name, url in given.urls.items()}},
        project=checked(given.project, _project, before.project),
        kubernetes=given.kubernetes or before.kubernetes,
    )
    if made.kubernetes:
        wrong += _unused_in_kubernetes(given)
    if wrong:
        raise StackError("\n".join(wrong))
    return made


def _unused_in_kubernetes(given: Given) -> Iterator[str]:
    """Errors for options that no manifest contains."""
    if given.targets:
        yield (
            f"--target {' '.join(given.targets)}: must be left out with --kubernetes, where Prometheus finds pods."
            ' Remedy: label them otel-fastperf/scrape: "true"'
        )
    if given.service is not None:
        yield (
            f"--service {given.service!r}: must be left out with --kubernetes, where a pod names its service."
            " Remedy: label it app.kubernetes.io/name"
        )
    if given.project is not None:
        yield (
            f"--project {given.project!r}: must be left out with --kubernetes, which needs no Compose."
            " Remedy: a namespace of your own, in an overlay"
        )


def notes(made: Answers, given: Given) -> Iterator[str]:
    """Notes about the answers for the user."""
    if any(_is_loopback(target) for target in given.targets):
        yield (
            f"Inside a container, localhost is the container itself, so Prometheus scrapes {HOST} instead. On Linux,"
            " your app must listen on all addresses to be reachable there (uvicorn --host 0.0.0.0)."
        )
    for option, percent in (("--availability", made.availability), ("--latency", made.latency)):
        if _FAST_BURN * (100 - Decimal(percent)) >= 100:  # noqa: PLR2004 - percent
            yield (
                f"{option} {percent}: the alert for a burn rate of {_FAST_BURN} cannot fire, because more than 100 % of"
                " the requests would have to fail. The alerts for lower burn rates can."
            )


def _is_loopback(target: str) -> bool:
    return target.rpartition(":")[0] in {"", *_LOOPBACK}


def _service(value: str) -> str:
    if not value.strip() or not value.isprintable() or len(value) > _LONGEST_NAME:
        message = (
            f"--service {value!r}: must be the name of the service, 1 to {_LONGEST_NAME} printable characters."
            " Remedy: --service shop, or the value of OTEL_SERVICE_NAME"
        )
        raise StackError(message)
    return value.strip()


def _project(value: str) -> str:
    if not _PROJECT.fullmatch(value):
        better = re.sub(r"[^a-z0-9_-]+", "-", value.lower()).strip("-_") or "shop-telemetry"
        message = (
            f"--project {value!r}: must be a project name of Compose, lowercase letters, digits, - and _, which begins"
            f" with a letter or a digit. Remedy: --project {better}"
        )
        raise StackError(message)
    return value


def _target(value: str) -> str:
    found = _TARGET.fullmatch(value)
    if found is None or not 1 <= int(found.group(2)) <= _MOST_PORT:
        message = (
            f"--target {value!r}: must be host:port without scheme or path, port 1 to {_MOST_PORT}."
            f" Remedy: --target {_better(value)}"
        )
        raise StackError(message)
    host, port = found.groups()
    return f"{HOST}:{port}" if _is_loopback(value) else f"{host}:{port}"


def _better(value: str) -> str:
    """A guess at the intended target."""
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        host, port = url.hostname, url.port or (443 if url.scheme == "https" else 80 if "://" in value else 8000)
    except ValueError:
        host, port = None, 0
    better = f"{host}:{port}"
    return better if host and _TARGET.fullmatch(better) else "shop:8000"


def _percent(option: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        number = _number(value.removesuffix("%"))
        if number is None or not 50 <= number < 100:  # noqa: PLR2004 - percent
            message = (
                f"{option} {value!r}: must be a percentage from 50 to below 100; 100 leaves no error budget, so"
                f" every error would raise an alert. Remedy: {option} 99.9"
            )
            raise StackError(message)
        return str(number)

    return check


def _threshold(value: str) -> str:
    number = _number(value.removesuffix("s"))
    for bound in HTTP_SECONDS:
        if number == Decimal(str(bound)):
            return str(bound)
    bounds = ", ".join(f"{bound:g}" for bound in HTTP_SECONDS)
    nearest = min(HTTP_SECONDS, key=lambda bound: abs(Decimal(str(bound)) - (number or Decimal("0.5"))))
    message = (
        f"--latency-threshold {value!r}: must be a bucket bound of http_server_request_duration_seconds, in"
        f" seconds: {bounds}; requests can only be counted at a bound. Remedy: --latency-threshold {nearest:g}"
    )
    raise StackError(message)


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _url(name: str) -> Callable[[str], str]:
    option = f"--{name.lower().replace('_', '-')}"

    def check(value: str) -> str:
        try:
            url = urlsplit(value)
            is_one = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
        except ValueError:
            is_one = False
        # it is written verbatim into .env, JSON and YAML
        if not is_one or not re.fullmatch(r"[!%&'()*+,./:;=?@\[\]~\w-]+", value, re.ASCII) or "'" in value:
            message = (
                f"{option} {value!r}: must be an http or https address without spaces, quotes, # or $."
                f" Remedy: {option} https://grafana.example.com"
            )
            raise StackError(message)
        return value.rstrip("/")

    return check
