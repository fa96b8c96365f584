"""A PostgreSQL server for tests: the one you name, or a temporary one of the test run.

Use it as a fixture: `from tests.postgresql import postgresql_url`, then take `postgresql_url: str` as an argument.
It is `postgresql://…` without a driver; `with_driver(url, "asyncpg")` adds one.
"""

import atexit
import functools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

#: URL of a running server; tests write to its database
VARIABLE: Final = "FASTPERF_TEST_POSTGRESQL_URL"

_DEBIAN: Final = Path("/usr/lib/postgresql")
_ATTEMPTS: Final = 3
_UNSAFE_BUT_FAST: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


@pytest.fixture(scope="session")
def postgresql_url() -> str:
    """URL of a database that tests may write to; skips the test with a reason if there is none."""
    try:
        return server_url()
    except NoServerError as error:
        pytest.skip(f"needs PostgreSQL: {error}. Install the server, or name one in {VARIABLE}")


def with_driver(url: str, driver: str) -> str:
    """The same URL for SQLAlchemy's driver: `postgresql+asyncpg://…`."""
    return f"postgresql+{driver}://{url.partition('://')[2]}"


def server_url() -> str:
    """The same without pytest.

    Raises:
        NoServerError: There is none; the message gives the reason.
    """
    # cached for the process: a fixture imported by several modules would start a server in each
    return os.environ.get(VARIABLE) or _own_server()


class NoServerError(Exception):
    """The reason why no PostgreSQL is available."""


@functools.cache
def _own_server() -> str:
    binaries = _binaries()
    directory = Path(tempfile.mkdtemp(prefix="fastperf-postgresql-"))
    account = _account(directory)
    data = str(directory / "data")
    initdb = ("--pgdata", data, "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
    pg_ctl = (str(binaries / "pg_ctl"), "--pgdata", data, "--wait", "--timeout=60")
    _clean_up_after_us(directory, (*pg_ctl, "--mode=immediate", "stop"), account)
    _run((str(binaries / "initdb"), *initdb), directory, account)
    port = _start(pg_ctl, directory, account)
    return f"postgresql://postgres@127.0.0.1:{port}/postgres"


def _clean_up_after_us(directory: Path, stop: Sequence[str], account: dict[str, Any]) -> None:
    """Stop the server and remove its files when this process ends, even if it is killed: the pipe then closes."""
    script = 'cat; "$@"; rm -rf "$0"'
    watch = subprocess.Popen(
        ("sh", "-c", script, str(directory), *stop),
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **account,
    )
    atexit.register(watch.communicate)


def _binaries() -> Path:
    """The folder of `initdb` and `pg_ctl`: from PATH, else the newest of Debian's, which are not in PATH."""
    found = shutil.which("initdb")
    # PATH may contain a wrapper or a single link; pg_ctl must be in the same folder
    if found and (Path(found).resolve().parent / "pg_ctl").exists():
        return Path(found).resolve().parent
    versions = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not versions:
        message = f"no initdb in PATH or {_DEBIAN}/*/bin"
        raise NoServerError(message)
    return versions[-1].parent


def _account(directory: Path) -> dict[str, Any]:
    """The user that runs the server: PostgreSQL refuses root, so root becomes `postgres` or `nobody`."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(directory, user.pw_uid, user.pw_gid)
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}
    message = "it does not run as root, and there is no user postgres or nobody"
    raise NoServerError(message)


def _start(pg_ctl: Sequence[str], directory: Path, account: dict[str, Any]) -> int:
    """Start the server on a free port; retry if another process takes the port first."""
    for attempt in range(1, _ATTEMPTS + 1):
        port = _free_port()
        options = ("listen_addresses=127.0.0.1", "unix_socket_directories=", f"port={port}", *_UNSAFE_BUT_FAST)
        server = " ".join(f"-c {option}" for option in options)
        try:
            _run((*pg_ctl, "--log", str(directory / "log"), "--options", server, "start"), directory, account)
        except NoServerError:
            if attempt == _ATTEMPTS:
                raise
        else:
            return port
    raise AssertionError


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run(command: Sequence[str], directory: Path, account: dict[str, Any]) -> None:
    """Run one of PostgreSQL's tools. Its output goes to a file, since a pipe would stay open while the server runs."""
    environment = {**os.environ, "LC_ALL": "C", "HOME": str(directory)}
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=120,
            **account,
        )
        output.seek(0)
        text = output.read().decode(errors="replace")
    if done.returncode:
        message = f"{Path(command[0]).name} failed: {text.strip()[-500:]}"
        raise NoServerError(message)
