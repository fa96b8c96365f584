"""Describes an exception safely: type, message and stack trace without values.

Exceptions contain what users send and what services know. SQLAlchemy adds the bound parameters, PostgreSQL a line
`DETAIL:  Key (email)=(…) already exists.`, pydantic the input, httpx the URL with its password, and code that catches
an error may repeat its text in a message of its own. So the whole chain of an exception is read first. Errors of
SQLAlchemy (recognised by `statement`, `params` and `orig`) and of drivers (PEP 249's `DatabaseError`, or an SQLSTATE)
keep their first lines; validation errors are written anew, without the inputs. In all other messages of the chain,
the texts of these errors and the values of parameters are replaced, and what remains is `scrubbed`.

Two kinds of values are not found: those that a message formats differently (rounded, hashed, truncated), and unquoted
ones that look like any word.

The setting `exceptions` chooses: `scrubbed` is this; `full` changes nothing; `type` leaves out all messages.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from linecache import getline
from textwrap import indent
from traceback import walk_tb
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias

from otel_fastperf.internals.scrubbing import QUOTED, scrubbed, scrubbed_source, validation_message
from otel_fastperf.internals.text_safety import encodable

#: how much of an exception is shown; see the setting `exceptions`
ErrorDetail: TypeAlias = Literal["full", "scrubbed", "type"]

#: Maximum number of exceptions per chain, including causes and members of groups.
MOST_EXCEPTIONS: Final = 32
#: Maximum number of parameter values to search for in messages.
MOST_VALUES: Final = 1000
#: Maximum number of frames shown per exception: half of them from the start, half from the end.
MOST_FRAMES: Final = 40
#: Longer messages are neither searched nor shown. In characters.
LONGEST_SEARCHED: Final = 64 * 1024
#: Maximum length of a message or a note in a stack trace, in characters.
LONGEST_LINE: Final = 4096
MOST_NOTES: Final = 10
#: Shorter values are not searched for, because they would be found everywhere.
SHORTEST: Final = 3
#: Values of at least this length are also searched for inside of words.
SHORTEST_INSIDE: Final = 8


@dataclass(frozen=True, slots=True)
class ErrorText:
    """The attributes `exception.type`, `exception.message` and `exception.stacktrace`. All can be encoded as UTF-8."""

    type: str
    message: str
    stacktrace: str


def error_type(error: BaseException) -> str:
    """`error.type`: the class as `module.Qualname`, without the module for a builtin."""
    module = getattr(type(error), "__module__", None)
    name = type(error).__qualname__
    return encodable(f"{module}.{name}" if module and module != "builtins" else name)


def describe_error(
    error: BaseException, detail: ErrorDetail = "scrubbed", *, max_length: int = 4096, max_stacktrace: int = 16 * 1024
) -> ErrorText:
    """The exception in this detail. `max_length` and `max_stacktrace` are in characters. Never raises.

    The stack trace has Python's format: oldest frame first, after those of its causes. If it is too long, its middle is
    left out.
    """
    try:
        shown = _Shown(error, detail)
        stacktrace = encodable("".join(_stacktrace(error, shown, set())))
        message = _cut(shown.message(error), max_length)
        return ErrorText(error_type(error), message, _cut_middle(stacktrace, max_stacktrace))
    except Exception:  # noqa: BLE001 - an exception whose attributes raise must not hide itself
        return ErrorText(error_type(error), "", "")


def describe_text(text: str, detail: ErrorDetail = "scrubbed") -> str:
    """A text that may repeat an exception's message, in this detail; of `type` only the type before a colon is left."""
    if detail == "full":
        return text
    if detail == "type":
        kind, colon, _ = text.partition(":")
        return kind if colon and kind.replace(".", "").isidentifier() else ""
    return _Shown(Exception(), detail).safe(text)


# --- bounds -----------------------------------------------------------------------------------------------------------


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _cut_middle(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    mark = f"\n… {len(text) - length} characters left out …\n"
    head = max(length // 3 - len(mark), 0)
    tail = max(length - head - len(mark), 0)
    return _cut(text[:head] + mark + text[len(text) - tail :], length)


# --- the chain --------------------------------------------------------------------------------------------------------


def _attribute(error: BaseException, name: str) -> Any:
    try:
        return getattr(error, name, None)
    except Exception:  # noqa: BLE001 - properties of exceptions may raise
        return None


def _members(error: BaseException) -> tuple[BaseException, ...]:
    return error.exceptions if isinstance(error, BaseExceptionGroup) else ()


def _reachable(starts: Iterable[object], links: Sequence[str], limit: int = MOST_EXCEPTIONS) -> list[BaseException]:
    """The exceptions reachable by the attributes in `links` and as members of groups, nearest first, each once."""
    found: dict[int, BaseException] = {}
    waiting: list[object] = list(starts)
    for error in waiting:
        if len(found) >= limit:
            break
        if isinstance(error, BaseException) and id(error) not in found:
            found[id(error)] = error
            waiting.extend(_attribute(error, link) for link in links)
            waiting.extend(_members(error)[:limit])
    return list(found.values())


def _is_statement_error(error: BaseException) -> bool:
    """True if the error has the attributes of SQLAlchemy's `StatementError`."""
    return all(hasattr(type(error), name) or name in error.__dict__ for name in ("statement", "params", "orig"))


def _is_driver_error(error: BaseException) -> bool:
    """True if the error has a base class that PEP 249 names, or an SQLSTATE (asyncpg)."""
    return any(base.__name__ in _DRIVER_ERRORS or "sqlstate" in vars(base) for base in type(error).__mro__)


_DRIVER_ERRORS: Final = frozenset({"DatabaseError", "InterfaceError"})


# --- messages ---------------------------------------------------------------------------------------------------------


class _Shown:
    """The messages of one chain, without values."""

    def __init__(self, error: BaseException, detail: ErrorDetail) -> None:
        self._detail = detail
        chain = _reachable((error,), ("__cause__", "__context__", "orig"))
        statement_errors = [linked for linked in chain if _is_statement_error(linked)]
        origins = _reachable([_attribute(linked, "orig") for linked in statement_errors], ("__cause__", "orig"))
        drivers = [linked for linked in chain if _is_driver_error(linked)]
        #: keeps the exceptions alive, so that no other one gets the same id
        self._chain = {id(linked): linked for linked in chain}
        self._sql_errors = {id(linked): linked for linked in (*statement_errors, *origins, *drivers)}
        validations = ((linked, validation_message(linked)) for linked in chain)
        self._validations = {id(linked): message for linked, message in validations if message is not None}
        self._values = _spellings(_attribute(linked, "params") for linked in statement_errors)
        self._embedded = self._texts()

    def _texts(self) -> list[tuple[str, str]]:
        """The texts of SQL and validation errors, as other messages may contain them, and what replaces them.

        Longest first.
        """
        texts: dict[str, str] = {}
        for error in self._chain.values():
            if id(error) not in self._sql_errors and id(error) not in self._validations:
                continue
            shown = self._known(error)
            for raw in (_raw_message(error), *(text for text in error.args if isinstance(text, str))):
                texts[raw] = texts[repr(raw)[1:-1]] = shown
        return sorted(((raw, shown) for raw, shown in texts.items() if len(raw) > SHORTEST), key=_longest_first)

    def knows(self, error: BaseException) -> bool:
        """True if the exception is in the part of the chain that was read. Messages of others must not be shown."""
        return id(error) in self._chain

    def message(self, error: BaseException) -> str:
        """The message of an exception of the chain."""
        if self._detail == "type":
            return ""
        if self._detail == "full":
            return encodable(_raw_message(error))
        if id(error) in self._sql_errors or id(error) in self._validations:
            return self._known(error)
        return self.safe(_raw_message(error))

    def _known(self, error: BaseException) -> str:
        """The message of an SQL or validation error."""
        validation = self._validations.get(id(error))
        if validation is not None:
            return encodable(validation)
        return scrubbed(self._without_values(_raw_message(error), without_quoted=True))

    def notes(self, error: BaseException) -> Iterator[str]:
        """The notes of an exception of the chain (PEP 678)."""
        notes = None if self._detail == "type" else _attribute(error, "__notes__")
        for note in notes[:MOST_NOTES] if isinstance(notes, list) else ():
            if isinstance(note, str):
                yield encodable(note) if self._detail == "full" else self.safe(note)

    def safe(self, text: str) -> str:
        """Scrub a text that is not the message of an SQL or validation error, but may contain one."""
        for raw, shown in self._embedded if len(text) <= LONGEST_SEARCHED else ():
            text = text.replace(raw, shown)
        foreign = _MARKS.search(text) is not None
        if foreign or self._sql_errors:
            text = self._without_values(text, without_quoted=foreign)
        elif len(text) > LONGEST_SEARCHED:
            text = _NOT_SHOWN.format(len(text))
        return encodable(scrubbed(text))

    def _without_values(self, text: str, *, without_quoted: bool) -> str:
        text = _first_lines(text)
        if len(text) > LONGEST_SEARCHED:
            return _NOT_SHOWN.format(len(text))
        text = _without(self._values, text)
        if without_quoted:
            text = QUOTED.sub(_identifier, _unwrapped(text))
        return encodable(_ROW.sub(_without_row, text))


_NOT_SHOWN: Final = "({} characters, not searched for values and not shown)"


def _longest_first(pair: tuple[str, str]) -> int:
    return -len(pair[0])


def _raw_message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - what the traceback module does
        return "<exception str() failed>"


#: What SQLAlchemy and PostgreSQL write before values. A message that contains one comes from them, whatever its chain.
_MARKS: Final = re.compile(r"\[SQL: |\[parameters: |\bDETAIL:  ")
#: What SQLAlchemy writes after the message.
_STATEMENT: Final = re.compile(r"\[SQL: |\[parameters: |\[SQL parameters hidden|\(Background on this \w+ at: ")
#: Start of a further line of PostgreSQL's in any language (with two spaces), except those that start a message.
_LABEL: Final = re.compile(r"(?:LINE \d+|DETAIL|CONTEXT|QUERY|STATEMENT|HINT):|(?!ERROR|FATAL|PANIC)[^\W\d_]{2,20}:  ")


def _first_lines(text: str) -> str:
    """The text without statement, parameters and PostgreSQL's further lines, except for the hint."""
    first, *further = _STATEMENT.split(text, maxsplit=1)[0].splitlines() or [""]
    kept, keeps = [first], True
    for line in further:
        label = _LABEL.match(line)
        keeps = label[0] == "HINT:" if label else keeps
        if keeps:
            kept.append(line)
    return "\n".join(kept).rstrip()


#: Start of `(1062, "Duplicate entry …")`: MySQL's drivers show their arguments.
_NUMBERED: Final = re.compile(r"""\((\d+), (["'])""")
#: A row in parentheses: `Key (email)=(…)`, `The duplicate key value is (…)`, `Failing row contains (…)`.
_ROW: Final = re.compile(r"(\)\s?=\s?|\b(?:value is|values|contains) )\((.*)")


def _identifier(match: re.Match[str]) -> str:
    return match[0] if match["name"] else "?"


def _unwrapped(text: str) -> str:
    start = _NUMBERED.search(text)
    if start is None or not text.endswith(f"{start[2]})"):
        return text
    return f"{text[: start.start()]}({start[1]}) {text[start.end() : -2]}"


def _without_row(match: re.Match[str]) -> str:
    """Replace a row, which ends at the last parenthesis of the line, because values may contain parentheses too."""
    return f"{match[1]}(?){match[2].rpartition(')')[2] if ')' in match[2] else ''}"


# --- parameter values -------------------------------------------------------------------------------------------------


def _spellings(parameters: Iterable[object]) -> list[str]:
    """The forms in which messages may contain the parameters' values, longest first."""
    spellings: set[str] = set()
    for value in _values(parameters):
        spellings.update(text for text in _spelled(value) if SHORTEST <= len(text) <= LONGEST_SEARCHED)
    return sorted(spellings, key=len, reverse=True)


def _values(parameters: Iterable[object]) -> Iterator[object]:
    """The first `MOST_VALUES` values inside of nested dictionaries, lists, tuples and sets."""
    waiting = deque(parameters)
    for _ in range(MOST_VALUES):
        if not waiting:
            return
        value = waiting.popleft()
        if isinstance(value, Mapping):
            waiting.extend(islice(value.values(), MOST_VALUES))
        elif isinstance(value, list | tuple | set | frozenset):
            waiting.extend(islice(value, MOST_VALUES))
        elif value is not None and not isinstance(value, bool):
            yield value


def _spelled(value: object) -> Iterator[str]:
    try:
        if isinstance(value, bytes | bytearray | memoryview):
            value = bytes(value)
            yield value.decode("utf-8", "replace")
        text = str(value)
        yield text
        yield repr(value)
        yield repr(text)[1:-1]
        yield from text.splitlines()
    except Exception:  # noqa: BLE001, S110 - a value that cannot be formatted is in no message
        pass


def _without(values: list[str], text: str) -> str:
    """The text with `?` instead of the values; short ones are replaced only where they are whole words."""
    for value in values:
        if value not in text:
            continue
        if len(value) >= SHORTEST_INSIDE:
            text = text.replace(value, "?")
        else:
            text = re.sub(rf"(?<![^\W_]){re.escape(value)}(?![^\W_])", "?", text)
    return text


# --- the stack trace --------------------------------------------------------------------------------------------------

_CAUSE: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"


def _stacktrace(error: BaseException, shown: _Shown, seen: set[int]) -> Iterator[str]:
    """The parts of the stack trace of `error` and of its causes."""
    seen.add(id(error))
    if error.__cause__ is not None:
        yield from _earlier(error.__cause__, _CAUSE, shown, seen)
    elif error.__context__ is not None and not error.__suppress_context__:
        yield from _earlier(error.__context__, _CONTEXT, shown, seen)
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from _frames(error.__traceback__)
    message = _cut(shown.message(error), LONGEST_LINE)
    yield f"{error_type(error)}: {message}\n" if message else f"{error_type(error)}\n"
    for note in shown.notes(error):
        yield f"{_cut(note, LONGEST_LINE)}\n"
    yield from _group(_members(error), shown, seen)


def _earlier(error: BaseException, link: str, shown: _Shown, seen: set[int]) -> Iterator[str]:
    if shown.knows(error) and id(error) not in seen:
        yield from _stacktrace(error, shown, seen)
        yield link


def _group(members: Sequence[BaseException], shown: _Shown, seen: set[int]) -> Iterator[str]:
    for number, member in enumerate(members, start=1):
        if not shown.knows(member):
            yield f"  +---------------- and {len(members) - number + 1} more\n"
            return
        if id(member) not in seen:
            yield f"  +---------------- {number} ----------------\n"
            yield indent("".join(_stacktrace(member, shown, seen)), "  | ", lambda _: True)


def _frames(traceback: TracebackType) -> Iterator[str]:
    """The frames in Python's format, oldest first; of many, only the first and the last ones."""
    frames = list(walk_tb(traceback))
    left_out = len(frames) - MOST_FRAMES
    for position, (frame, line) in enumerate(frames):
        if left_out > 0 and MOST_FRAMES // 2 <= position < MOST_FRAMES // 2 + left_out:
            if position == MOST_FRAMES // 2:
                yield f"  … {left_out} frames left out …\n"
            continue
        code = frame.f_code
        yield f'  File "{code.co_filename}", line {line}, in {code.co_name}\n'
        source = getline(code.co_filename, line, frame.f_globals).strip()
        if source:
            yield f"    {scrubbed_source(source)}\n"
