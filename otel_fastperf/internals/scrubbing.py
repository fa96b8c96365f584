"""Takes out of the text of exceptions what users and services put in: quoted inputs, credentials, values in URLs.

A text is all there is to go by, so this goes by form. What an interpreter or a library quotes for the reader stays:
names of attributes and modules, HTTP statuses, database objects. Unquoted values that look like words stay too.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from otel_fastperf.internals.urls import REDACTED, redacted_query, redacted_url, without_userinfo

#: most errors of a validation that are shown
_MOST_ERRORS: Final = 20

#: A quoted text, with the word before it if that word shows that the text is a name. Without a closing quote, the rest
#: of the message counts as quoted. A quote inside of a word is an apostrophe.
QUOTED: Final = re.compile(
    r"(?P<name>(?:\b(?:relation|table|column|constraint|index|schema|function|procedure|type|role|database|sequence|view"
    r"|trigger|extension|collation|cursor|savepoint|for key|server at|bind parameter)|<class) )?"
    r"(?<!\w)(?:[bBuUrR]{1,2}(?='))?"
    r"""(?:'(?:[^']|'(?=\w))*+(?:'|\Z)|"(?:[^"]|"(?=\w))*+(?:"|\Z))""",
    re.IGNORECASE,
)
#: what the interpreter writes before names that it quotes, and between two of them
_BEFORE_A_NAME: Final = re.compile(
    r"(?:No module named|cannot import name|cannot import name '\w+' from|\bmodule|\btype object|has no attribute"
    r"|keyword argument|(?:positional|keyword-only) arguments?:|values for argument|instances of"
    r"|(?:local|free) variable|operand type\(s\) for [^:\n]{1,6}:|(?:object|argument) of type|Did you mean:)"
    r" (?:'[\w.]+'(?:,| and|, and) )*\Z"
)
#: what it writes after one
_AFTER_A_NAME: Final = re.compile(
    r" (?:object (?:has no|is not|is un|does not|doesn't|cannot|can't)|is not defined\b|not supported between)"
)
_NAME: Final = re.compile(r"'(?:[A-Za-z_][\w.]*|[<>=!]+)'\Z")
#: characters of a message in which such words are looked for
_LONGEST_PHRASE: Final = 200
#: a status line, as HTTP clients quote it
_STATUS: Final = re.compile(r"""['"][1-5]\d\d [A-Z][A-Za-z' -]*['"]\Z""")
_URL: Final = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s'"<>\\]+""")
#: the query of a URL without a host, and the parameters of a form
_QUERY: Final = re.compile(r"""(?<=\?)[^\s'"<>?#]*=[^\s'"<>?]*""")
#: what names a credential, and the credential
_NAMED: Final = re.compile(
    r"""(?P<name>(?:\b|_)(?:password|passwd|pwd|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key"""
    r"""|authorization|credentials?|cookie|session[_-]?id)\b["']?\s*[=:]\s*)(?P<scheme>(?:bearer|basic|digest) )?"""
    r"""(?!\?)[^\s,;&)'"\]}]+""",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"\b(?P<scheme>bearer|basic) [A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
#: pydantic's input, up to the last mark of its end in the line: an input may contain such a mark
_INPUT: Final = re.compile(r"input_value=.*(?=, input_type=\w+\])")
_INPUT_WITHOUT_END: Final = re.compile(r"input_value=(?!\?).*")
#: a password has been put into a line of source code as well
_CREDENTIALS: Final = re.compile(r"//[^\s/]*@")


def scrubbed(text: str) -> str:
    """The text without what it quotes, without credentials, and with the names of the values in its URLs only."""
    if "input_value=" in text:
        text = _INPUT_WITHOUT_END.sub("input_value=?", _INPUT.sub("input_value=?", text))
    if "://" in text:
        text = _URL.sub(_redacted_url, text)
    if "?" in text:
        text = _QUERY.sub(_redacted_query, text)
    text = QUOTED.sub(_unquoted, text)
    text = _BEARER.sub(rf"\g<scheme> {REDACTED}", text)
    return _NAMED.sub(rf"\g<name>{REDACTED}", text)


def scrubbed_source(line: str) -> str:
    """A line of source code without user and password of its URLs."""
    return without_userinfo(line) if "@" in line and _CREDENTIALS.search(line) else line


def validation_message(error: BaseException) -> str | None:
    """The message of a validation error of pydantic or FastAPI without its inputs; None for other exceptions."""
    if not _is_validation_error(error):
        return None
    errors = list(_errors_of(error))
    title = getattr(error, "title", None)
    number = f"{len(errors)} validation error{'' if len(errors) == 1 else 's'}"
    shown = [f"{number} for {title}" if isinstance(title, str) else number]
    shown += [_one_error(each) for each in errors[:_MOST_ERRORS]]
    if len(errors) > _MOST_ERRORS:
        shown.append(f"… and {len(errors) - _MOST_ERRORS} more")
    return "\n".join(shown)


def _is_validation_error(error: BaseException) -> bool:
    return any((base.__module__.partition(".")[0], base.__name__) in _VALIDATION_ERRORS for base in type(error).__mro__)


_VALIDATION_ERRORS: Final = frozenset(
    {
        ("pydantic_core", "ValidationError"),
        ("pydantic", "ValidationError"),
        ("fastapi", "ValidationException"),
        ("fastapi", "ResponseValidationError"),
        ("fastapi", "RequestValidationError"),
        ("fastapi", "WebSocketRequestValidationError"),
    }
)


#: types of errors whose messages name the values that are possible
_EXPECTING: Final = frozenset({"literal_error", "enum"})


def _errors_of(error: Any) -> Iterator[dict[str, Any]]:
    try:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
    except TypeError:
        errors = error.errors()
    yield from (each for each in errors if isinstance(each, dict))


def _one_error(error: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in error.get("loc", ()))
    kind = str(error.get("type", ""))
    message = str(error.get("msg", ""))
    # these quote what is expected; those of validators may quote the input
    message = message if kind in _EXPECTING else scrubbed(message)
    if kind == "extra_forbidden":
        place = f"{place.rpartition('.')[0]}.?".removeprefix(".")
    return f"{place}\n  {message} [type={kind}]"


def _redacted_url(match: re.Match[str]) -> str:
    return redacted_url(match[0])


def _redacted_query(match: re.Match[str]) -> str:
    return redacted_query(match[0])


def _unquoted(match: re.Match[str]) -> str:
    quoted = match[0]
    if match["name"] or _STATUS.match(quoted) or _URL.fullmatch(quoted[1:-1]):
        return quoted
    if _NAME.match(quoted):
        before = match.string[max(match.start() - _LONGEST_PHRASE, 0) : match.start()]
        if _BEFORE_A_NAME.search(before) or _AFTER_A_NAME.match(match.string, match.end()):
            return quoted
    return "?"
