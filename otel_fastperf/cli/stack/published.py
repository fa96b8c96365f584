"""The ports of this machine that a compose file publishes, in each of Compose's notations."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from otel_fastperf.cli.stack.yaml_files import document, inner

#: `3000`, `$PORT`, `${PORT}`, `${PORT:-3000}`
_HOST: Final = r"\d+|\$\w+|\$\{\w+(?::?-\d*)?\}"
_VARIABLE: Final = re.compile(r"\$\{?(\w+)(?::?-(\d*))?\}?")
#: the short notation: `[ADDRESS:]HOST:CONTAINER[/PROTOCOL]`
_SHORT: Final = re.compile(rf"(?:\S+:)?({_HOST}):\d+(?:/\w+)?")


@dataclass(frozen=True, slots=True)
class Published:
    """A published port."""

    service: str
    #: the variable that sets it; "" if the file has the number itself
    variable: str
    #: the number, or the default of the variable; "" if it has none
    default: str


def published(compose: str) -> Iterator[Published]:
    """The published ports of a compose file. Ranges, and ports that Docker chooses, are left out."""
    services = inner(document(compose), "services")
    for name, service in services.items() if isinstance(services, dict) else ():
        for port in dict.fromkeys(_hosts(inner(service, "ports"))):
            found = _VARIABLE.fullmatch(port)
            yield Published(name, *((found[1], found[2] or "") if found else ("", port)))


def _hosts(ports: Any) -> Iterator[str]:
    for port in ports if isinstance(ports, list) else ():
        if isinstance(port, dict):
            found = re.fullmatch(f"({_HOST})", str(port.get("published", "")))
        else:
            found = _SHORT.fullmatch(str(port))
        if found:
            yield found[1]
