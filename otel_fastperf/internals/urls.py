"""URLs without what may be secret in them: user and password, and the values of the query and the fragment."""

import re
from collections.abc import Container
from typing import Final

#: in place of a value, as in the semantic conventions
REDACTED: Final = "REDACTED"

#: User and password, up to the last `@` before the path. A password may have a slash, but a port has none.
_USERINFO: Final = re.compile(r"(?<=//)(?:[^\s/?#@:]*:(?!\d+[/?#])[^\s@'\"<>]*|[^\s/?#'\"<>]*)@")
#: the same at the start of a target without a slash, as in `CONNECT user:password@host:443`
_AT_THE_START: Final = re.compile(r"\A[^/?#]*@")


def without_userinfo(target: str) -> str:
    """A URL or a request target with `REDACTED` in place of user and password."""
    if "@" not in target:
        return target
    if "//" in target:
        return _USERINFO.sub(f"{REDACTED}@", target)
    return target if target.startswith("/") else _AT_THE_START.sub(f"{REDACTED}@", target)


def redacted_query(query: str, keeps: Container[str] = ()) -> str:
    """A query with the names of its parameters, and `REDACTED` in place of their values.

    A part without a value is a value itself for all that is known: `?token` and, as base64 ends, `?dG9rZW4=`.
    `keeps`: the parameters that keep their values, and the parts without one if it contains `""`.
    """
    return "&".join(_redacted(part, keeps) for part in query.split("&"))


def redacted_url(url: str) -> str:
    """A URL without user, password and the values of its query and fragment."""
    rest, hash_sign, fragment = without_userinfo(url).partition("#")
    base, question, query = rest.partition("?")
    shown = f"{base}?{redacted_query(query)}" if question else base
    return f"{shown}#{redacted_query(fragment)}" if hash_sign else shown


def _redacted(part: str, keeps: Container[str]) -> str:
    key, equals, value = part.partition("=")
    if not value.strip("="):
        return part if not part or "" in keeps else REDACTED
    return part if key in keeps else f"{key}{equals}{REDACTED}"
