"""Telemetry shows everything helpful about an exception, but no value. Validation and URLs: `tests/hostile`."""

import asyncio
import re
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import IntegrityError, PendingRollbackError, StatementError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from otel_fastperf.internals.redaction import ErrorText, describe_error, error_type
from tests.postgresql import postgresql_url, with_driver

__all__ = ["postgresql_url"]

SECRET: Final = "alice@example.com"


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    seen: Mapped[datetime | None]


@pytest.fixture
def engine() -> Iterator[Engine]:
    """SQLite with one user, whose address is the secret."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(User(email=SECRET))
        session.commit()
    yield engine
    engine.dispose()


def raised(call: Callable[[], object]) -> BaseException:
    """The exception that `call` raises."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - returned to the test
        return error
    pytest.fail("nothing was raised")


def add_again(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(User(email=SECRET))
        session.commit()


class UniqueError(Exception):
    """A driver's error, recognised because it is SQLAlchemy's `orig`."""


def statement_error(driver_message: str, parameters: object = None, statement: str = "SELECT 1") -> BaseException:
    """SQLAlchemy's error for a driver's error with this message, in the state after both were raised."""
    orig = UniqueError(driver_message)
    params: Any = parameters
    error = IntegrityError(statement, params, orig)
    error.__cause__ = error.__context__ = orig
    return error


def everything(shown: ErrorText) -> str:
    return f"{shown.type}\n{shown.message}\n{shown.stacktrace}"


def messages(shown: ErrorText) -> str:
    """Everything shown except source lines, which contain no data."""
    return "\n".join(line for line in everything(shown).splitlines() if not line.startswith("    "))


# --- any exception ----------------------------------------------------------------------------------------------------


class Outer:
    class InnerError(Exception):
        pass


def test_error_type_is_the_qualified_class_name() -> None:
    assert error_type(ValueError()) == "ValueError"
    assert error_type(Outer.InnerError()) == f"{__name__}.Outer.InnerError"
    assert error_type(IntegrityError("", None, Exception())) == "sqlalchemy.exc.IntegrityError"


def test_an_exception_is_shown_unchanged_if_settings_say_so() -> None:
    error = raised(lambda: int("it's 'me', \"(x)=(y)\""))
    shown = describe_error(error, "full")
    assert (shown.type, shown.message) == ("ValueError", str(error))
    assert shown.stacktrace.startswith("Traceback (most recent call last):\n")
    assert shown.stacktrace.endswith(f"ValueError: {error}\n")


def test_the_stack_trace_has_python_s_format() -> None:
    """Causes first, newest call last, each frame with file, line, function and source."""

    def fail() -> None:
        try:
            try:
                raise ValueError("one")  # noqa: TRY301 - as short as it gets
            except ValueError:
                raise LookupError("two")  # noqa: B904 - raises with a context instead of a cause
        except LookupError as error:
            raise RuntimeError("three") from error

    error = raised(fail)
    error.add_note("four")
    python = "".join(traceback.format_exception(error))
    without_carets = re.sub(r"^ +[~^]+\n", "", python, flags=re.MULTILINE)
    assert describe_error(error).stacktrace == without_carets


def test_a_suppressed_context_is_not_shown() -> None:
    def fail() -> None:
        try:
            int("one")
        except ValueError:
            raise RuntimeError("two") from None

    stacktrace = describe_error(raised(fail)).stacktrace
    assert "RuntimeError: two" in stacktrace
    assert "ValueError" not in stacktrace


def test_members_of_a_group_are_shown() -> None:
    async def fail() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(first())
            group.create_task(second())

    async def first() -> None:
        raise ValueError("one")

    async def second() -> None:
        raise KeyError("two")

    shown = describe_error(raised(lambda: asyncio.run(fail())))
    assert shown.type == "ExceptionGroup"
    for line in (r"  \+-+ 1 -+", r"  \| ValueError: one", r"  \+-+ 2 -+", r"  \| KeyError: \?"):
        assert re.search(f"^{line}$", shown.stacktrace, re.MULTILINE), line


def test_a_deep_stack_keeps_its_first_and_last_frames() -> None:
    def dig(depth: int) -> None:
        if not depth:
            raise ValueError("bottom")
        dig(depth - 1)

    stacktrace = describe_error(raised(lambda: dig(500))).stacktrace
    assert "in raised\n" in stacktrace
    assert re.search(r"^  … \d+ frames left out …$", stacktrace, re.MULTILINE)
    assert stacktrace.index("frames left out") < stacktrace.index('raise ValueError("bottom")')
    assert len(stacktrace.splitlines()) < 100


def test_message_and_stack_trace_have_a_maximum_length() -> None:
    def fail() -> None:
        raise ValueError("x" * 10_000)

    shown = describe_error(raised(fail), max_length=100, max_stacktrace=500)
    assert len(shown.message) == 100
    assert shown.message.endswith("…")
    assert len(shown.stacktrace) == 500
    assert shown.stacktrace.startswith("Traceback")
    assert "characters left out" in shown.stacktrace


def test_a_cycle_of_causes_ends() -> None:
    first, second = ValueError("one"), ValueError("two")
    first.__cause__, second.__cause__ = second, first
    assert describe_error(first).stacktrace.count("ValueError: one") == 1


def test_a_long_chain_and_a_large_group_are_cut() -> None:
    error: Exception = ValueError("0")
    for number in range(1, 5000):
        later = ValueError(str(number))
        later.__context__, error = error, later
    assert describe_error(error).message == "4999"
    group = ExceptionGroup("many", [ValueError(str(number)) for number in range(5000)])
    assert re.search(r"and \d{4} more$", describe_error(group).stacktrace, re.MULTILINE)


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class HostileError(Exception):
    @property
    def statement(self) -> str:
        raise RuntimeError("no")

    params = orig = statement


def test_an_exception_that_cannot_be_read_is_still_named() -> None:
    assert describe_error(SpeechlessError()).message == "<exception str() failed>"
    assert describe_error(SpeechlessError()).type == f"{__name__}.SpeechlessError"
    assert describe_error(HostileError("a message")).type == f"{__name__}.HostileError"


@given(st.text(st.characters(codec=None, exclude_categories=())) | st.text(st.sampled_from("ab \n'\"\ud800")))
def test_everything_shown_can_be_encoded(message: str) -> None:
    everything(describe_error(ValueError(message), max_stacktrace=64)).encode("utf-8")
    everything(describe_error(statement_error(message, {"a": message}))).encode("utf-8")


# --- SQLAlchemy's errors, from SQLite ---------------------------------------------------------------------------------


def test_bound_parameters_and_statement_are_not_shown(engine: Engine) -> None:
    error = raised(lambda: add_again(engine))
    assert SECRET in str(error)
    shown = describe_error(error)
    assert shown.type == "sqlalchemy.exc.IntegrityError"
    assert shown.message == "(sqlite3.IntegrityError) UNIQUE constraint failed: users.email"
    assert "sqlite3.IntegrityError: UNIQUE constraint failed: users.email\n" in shown.stacktrace
    for part in (SECRET, "[SQL", "[parameters", "Background"):
        assert part not in everything(shown)


def test_the_message_is_the_same_with_hidden_parameters(engine: Engine) -> None:
    hiding = create_engine("sqlite://", hide_parameters=True)
    Base.metadata.create_all(hiding)
    add_again(hiding)
    assert (
        describe_error(raised(lambda: add_again(hiding))).message
        == describe_error(raised(lambda: add_again(engine))).message
    )
    hiding.dispose()


def test_parameters_of_a_batch_are_not_shown(engine: Engine) -> None:
    rows = [{"email": f"{number}-{SECRET}"} for number in range(2000)]

    def insert() -> None:
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO users (email) VALUES (:email)"), [*rows, rows[0]])

    shown = describe_error(raised(insert))
    assert shown.message == "(sqlite3.IntegrityError) UNIQUE constraint failed: users.email"
    assert SECRET not in messages(shown)


def test_literals_in_the_statement_are_not_shown(engine: Engine) -> None:
    def select() -> None:
        with engine.connect() as connection:
            connection.execute(text(f"SELECT * FROM users WHERE email = '{SECRET}' oops '{SECRET}'"))

    shown = describe_error(raised(select))
    assert "syntax error" in shown.message
    assert SECRET not in messages(shown)


def test_an_error_before_the_driver_shows_no_value_either(engine: Engine) -> None:
    """A wrong type fails in SQLAlchemy, as a StatementError whose `orig` is not a driver's error."""
    wrong: Any = f"on the 1st, {SECRET}"
    with Session(engine) as session:
        session.add(User(email="b", seen=wrong))
        error = raised(session.commit)
        assert isinstance(error, StatementError)
        assert SECRET not in messages(describe_error(error))
        assert "only accepts Python datetime" in describe_error(error).message


def test_the_text_of_an_earlier_error_is_redacted_without_that_error(engine: Engine) -> None:
    """PendingRollbackError has the whole text of the failed flush, but no link to its error."""
    with Session(engine) as session:
        session.add(User(email=SECRET))
        raised(session.flush)
        error = raised(lambda: session.get(User, 1))
    assert isinstance(error, PendingRollbackError)
    assert SECRET in str(error)
    shown = describe_error(error)
    assert "UNIQUE constraint failed: users.email" in shown.message
    assert SECRET not in messages(shown)


# --- the app's own errors around them ---------------------------------------------------------------------------------


def wrap(engine: Engine, message: Callable[[BaseException], str], *, suppress: bool = False) -> BaseException:
    """An error of the app with `message(error)`, raised while SQLAlchemy's error was handled."""

    def fail() -> None:
        try:
            add_again(engine)
        except IntegrityError as error:
            if suppress:
                raise RuntimeError(message(error)) from None
            raise RuntimeError(message(error)) from error

    return raised(fail)


CONSTRAINT: Final = "(sqlite3.IntegrityError) UNIQUE constraint failed: users.email"


@pytest.mark.parametrize("suppress", [False, True], ids=["with its cause", "without its cause"])
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (lambda error: f"cannot add: {error}; sorry", f"cannot add: {CONSTRAINT}; sorry"),
        (lambda error: f"cannot add: {error!r}; sorry", "cannot add: IntegrityError(?); sorry"),
        (lambda error: f"cannot add: {error.orig}", "cannot add: UNIQUE constraint failed: users.email"),
        (lambda error: f"cannot add: {str(error)[:150]}", f"cannot add: {CONSTRAINT}"),
        (lambda error: f"cannot add <{SECRET}>, it's there", "cannot add <?>, it's there"),
        (lambda error: f"x{SECRET}x", "x?x"),
    ],
)  # fmt: skip
def test_values_are_replaced_in_messages_that_repeat_them(
    engine: Engine, message: Callable[[BaseException], str], expected: str, suppress: bool
) -> None:
    error = wrap(engine, message, suppress=suppress)
    shown = describe_error(error)
    assert shown.message == expected
    assert SECRET not in messages(shown)


def test_values_are_replaced_in_notes(engine: Engine) -> None:
    error = wrap(engine, lambda _: "cannot add")
    error.add_note(f"it was {SECRET}")
    assert "\nit was ?\n" in describe_error(error).stacktrace


def test_values_are_replaced_in_groups_and_their_members(engine: Engine) -> None:
    error = BaseExceptionGroup(f"adding {SECRET}", [raised(lambda: add_again(engine)), ValueError(f"so {SECRET}")])
    shown = describe_error(error)
    assert shown.message == "adding ? (2 sub-exceptions)"
    assert "  | ValueError: so ?\n" in shown.stacktrace
    assert SECRET not in messages(shown)


@pytest.mark.parametrize(
    "value",
    [
        "alice",
        "O'Brien",
        'say "hi"',
        "line one\nline two",
        b"\x00\xffbytes",
        1234567,
        12.345,
        Decimal("99.95"),
        UUID("12345678-1234-5678-1234-567812345678"),
        datetime(2020, 1, 2, 3, 4, tzinfo=UTC),
        "émile\ud800",
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "parameters",
    [
        lambda value: {"a": value},
        lambda value: (value,),
        lambda value: [{"a": 1}, {"a": value}],
        lambda value: [(1, [value])],
    ],
    ids=["dict", "tuple", "batch", "nested"],
)
def test_values_of_any_type_are_recognised_as_str_and_repr(
    parameters: Callable[[object], object], value: object
) -> None:
    cause = statement_error("failed", parameters(value))
    for spelled in (str(value), repr(value)):
        error = RuntimeError(f"no {spelled}, thanks")
        error.__cause__ = cause
        assert describe_error(error).message == "no ?, thanks"


def test_a_single_line_of_a_value_is_replaced_too() -> None:
    error = RuntimeError("line 2 is bad: dear alice")
    error.__cause__ = statement_error("failed", ("hello\ndear alice\nbye",))
    assert describe_error(error).message == "line 2 is bad: ?"


def test_the_repr_of_an_error_is_redacted_like_its_text() -> None:
    cause = statement_error('cannot read "s3cret"\nnor write')
    error = RuntimeError(f"what is {cause.__cause__!r}?")
    error.__cause__ = cause
    assert describe_error(error).message == "what is UniqueError(?)?"


def test_short_values_are_replaced_as_whole_words_only() -> None:
    error = RuntimeError("bob and bobby met in 2020 at id 12, 120 m away")
    error.__cause__ = statement_error("failed", ("bob", 120, 12, True, None, ""))
    assert describe_error(error).message == "? and bobby met in 2020 at id 12, ? m away"


def test_recursive_parameters_are_read_once() -> None:
    endless: list[object] = [SECRET]
    endless.append(endless)
    error = RuntimeError(f"no {SECRET}")
    error.__cause__ = statement_error("failed", endless)
    assert describe_error(error).message == "no ?"


def test_a_message_too_long_to_search_is_not_shown() -> None:
    error = RuntimeError("x" * 10**6)
    error.__cause__ = statement_error("failed", (SECRET,))
    assert describe_error(error).message == "(1000000 characters, not searched for values and not shown)"


@pytest.mark.parametrize(
    "piece",
    [
        " ",
        "\n",
        "'",
        '"',
        "'a ",
        '"a ',
        "(",
        "(1, '",
        "value is (",
        ")=(",
        "table ",
        "DETAIL:  ",
        "[SQL",
        "HINT: \n",
        "b",
        "1",
    ],
    ids=repr,
)
def test_no_message_takes_more_than_linear_time(piece: str) -> None:
    """60,000 characters take about 10 ms; in quadratic time they would take a minute."""
    message = piece * (60_000 // len(piece))
    error = RuntimeError(message)
    error.__cause__ = statement_error(message, [str(number) for number in range(1000, 1100)])
    started = time.process_time()
    describe_error(error)
    assert time.process_time() - started < 5


# --- what databases say -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver_message", "shown"),
    [
        # PostgreSQL
        (
            'duplicate key value violates unique constraint "users_key"\nDETAIL:  Key (email)=(s3cret) already exists.',
            'duplicate key value violates unique constraint "users_key"',
        ),
        (
            "doppelter Schlüsselwert verletzt Unique-Constraint »u«\nDÉTAIL:  Schlüssel »(a)=(s3cret)« gibt es schon",
            "doppelter Schlüsselwert verletzt Unique-Constraint »u«",
        ),
        (
            'new row for relation "u" violates check constraint "c"\nDETAIL:  Failing row contains (s3cret\ns3cret).',
            'new row for relation "u" violates check constraint "c"',
        ),
        (
            'invalid input syntax for type integer: "s3cret"\nLINE 1: SELECT * FROM a WHERE id = \'s3cret\'\n       ^',
            "invalid input syntax for type integer: ?",
        ),
        ('value "s3cret" is out of range for type integer', "value ? is out of range for type integer"),
        ('syntax error at or near "s3cret"', "syntax error at or near ?"),
        (
            'column "nme" does not exist\nLINE 1: SELECT nme, s3cret\nHINT:  Perhaps you meant the column "u.name".',
            'column "nme" does not exist\nHINT:  Perhaps you meant the column "u.name".',
        ),
        (
            'connection to server at "10.0.0.1", port 5432 failed: FATAL:  the database system is starting up',
            'connection to server at "10.0.0.1", port 5432 failed: FATAL:  the database system is starting up',
        ),
        (
            "<class 'asyncpg.exceptions.DataError'>: invalid input for query argument $1: 's3cret' ('str' object …)",
            "<class 'asyncpg.exceptions.DataError'>: invalid input for query argument $1: ? (? object …)",
        ),
        ("invalid input for query argument $1: b's3cret' (…)", "invalid input for query argument $1: ? (…)"),
        # MySQL
        (
            "(1062, \"Duplicate entry 's3cret' for key 'users.email'\")",
            "(1062) Duplicate entry ? for key 'users.email'",
        ),
        ("(1064, 'You have an error near \\'s3cret\\' at line 1')", "(1064) You have an error near \\? at line 1"),
        ("Duplicate entry 's3cret' for key 'users.email'", "Duplicate entry ? for key 'users.email'"),
        (
            "Incorrect integer value: 's3cret' for column 'age' at row 1",
            "Incorrect integer value: ? for column 'age' at row 1",
        ),
        ("Can't connect to MySQL server on 'db'", "Can't connect to MySQL server on ?"),
        # SQL Server
        (
            "Violation of UNIQUE KEY constraint 'uq'. The duplicate key value is (s3cret, (x)).",
            "Violation of UNIQUE KEY constraint 'uq'. The duplicate key value is (?).",
        ),
        ("Failing row contains (s3cret", "Failing row contains (?)"),
        # Oracle
        ("row with column values (EMAIL:'s3cret') already exists", "row with column values (?) already exists"),
        # SQLite
        ("UNIQUE constraint failed: users.email", "UNIQUE constraint failed: users.email"),
        ("no such table: users", "no such table: users"),
        ('near "s3cret": syntax error', "near ?: syntax error"),
        ("unrecognized token: \"'s3cret\"", "unrecognized token: ?"),
        # unterminated quotations, and text that only looks like one
        ("cannot read 's3cret", "cannot read ?"),
        ("the users' table wasn't read, nor O'Brien's", "the users' table wasn't read, nor O'Brien's"),
        ("cannot read 'O'Brien s3cret'", "cannot read ?"),
    ],
)  # fmt: skip
def test_a_database_message_is_kept_without_its_quotations(driver_message: str, shown: str) -> None:
    error = statement_error(driver_message)
    assert describe_error(error).message == f"({__name__}.UniqueError) {shown}"
    assert error.__cause__ is not None
    assert "s3cret" not in messages(describe_error(error))


def test_a_driver_s_error_without_sqlalchemy_is_redacted_too() -> None:
    class DatabaseError(Exception):
        """The name that PEP 249 prescribes."""

    class UniqueViolationError(DatabaseError):
        pass

    class PostgresError(Exception):
        sqlstate = "23505"

    for kind in (UniqueViolationError, PostgresError):
        assert describe_error(kind("value 's3cret' is bad\nCONTEXT:  s3cret")).message == "value ? is bad"


def test_the_cause_of_a_driver_s_error_is_redacted_too() -> None:
    """SQLAlchemy's dialect wraps asyncpg's exception, which becomes the cause of the new error."""
    error = statement_error("failed")
    assert error.__cause__ is not None
    error.__cause__.__cause__ = ValueError("value 's3cret'\nCONTEXT:  s3cret")
    assert "ValueError: value ?\n" in describe_error(error).stacktrace
    assert "s3cret" not in messages(describe_error(error))


# --- a real PostgreSQL ------------------------------------------------------------------------------------------------

FAILING: Final = {
    "INSERT INTO pg_temp.people (email) VALUES (:value)": (
        'duplicate key value violates unique constraint "people_email_key"'
    ),
    "INSERT INTO pg_temp.people (email, age) VALUES (:value || 'x', -1)": (
        'new row for relation "people" violates check constraint "people_age_check"'
    ),
    f"SELECT CAST('{SECRET}' AS INTEGER), :value": "invalid input syntax for type integer: ?",
    f"SELECT '{SECRET}' '{SECRET}', :value": "syntax error at or near ?",
}
SET_UP: Final = (
    "CREATE TEMPORARY TABLE people (email TEXT UNIQUE, age INT CHECK (age > 0))",
    f"INSERT INTO people (email) VALUES ('{SECRET}')",
)


@pytest.mark.parametrize(("statement", "message"), FAILING.items())
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_errors_of_postgresql_show_no_value(postgresql_url: str, driver: str, statement: str, message: str) -> None:
    async def fail() -> None:
        engine = create_async_engine(with_driver(postgresql_url, driver))
        try:
            async with engine.connect() as connection:
                for line in SET_UP:
                    await connection.execute(text(line))
                await connection.execute(text(statement), {"value": SECRET})
        finally:
            await engine.dispose()

    error = raised(lambda: asyncio.run(fail()))
    assert SECRET in "".join(traceback.format_exception(error))
    shown = describe_error(error)
    assert shown.message.endswith(f" {message}")
    assert SECRET not in messages(shown)
