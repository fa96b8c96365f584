"""A MariaDB server for tests: the one you name, or a temporary one of the test run.

Use it as a fixture: `from tests.mariadb import mariadb_url`, then take `mariadb_url: str` as an argument.
It is `mysql://…` without a driver; `with_mysql_driver(url, "pymysql")` adds one.
"""

import atexit
import functools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import pytest

#: URL of a running server; tests write to its database
VARIABLE: Final = "FASTPERF_TEST_MARIADB_URL"

_ATTEMPTS: Final = 3
_DEADLINE: Final = 60.0
_UNSAFE_BUT_FAST: Final = ("--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M", "--skip-log-bin")


@pytest.fixture(scope="session")
def mariadb_url() -> str:
    """URL of a database that tests may write to; skips the test with a reason if there is none."""
    url = os.environ.get(VARIABLE)
    if url:
        return url
    # cached for the process: a fixture imported by several modules would start a server in each
    try:
        return _own_server()
    except _NoServerError as error:
        pytest.skip(f"needs MariaDB: {error}. Install mariadb-server, or name one in {VARIABLE}")


def with_mysql_driver(url: str, driver: str) -> str:
    """The same URL for SQLAlchemy's driver: `mysql+pymysql://…`; skips the test if the driver is not installed."""
    pytest.importorskip(driver, reason=f"needs the driver {driver}")
    return f"mysql+{driver}://{url.partition('://')[2]}"


class _NoServerError(Exception):
    """The reason why no MariaDB is available."""


@functools.cache
def _own_server() -> str:
    server, install = _binary("mariadbd"), _binary("mariadb-install-db")
    directory = Path(tempfile.mkdtemp(prefix="fastperf-mariadb-"))
    account = _account(directory)
    data = directory / "data"
    _install(install, data, directory, account)
    return f"mysql://root@127.0.0.1:{_start(server, data, directory, account)}/shop"


def _binary(name: str) -> str:
    # Debian installs the server in a folder of root's PATH only
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        message = f"no {name} in PATH"
        raise _NoServerError(message)
    return found


def _account(directory: Path) -> dict[str, Any]:
    """The user that runs the server: it refuses root, so root becomes `mysql` or `nobody`."""
    if os.geteuid() != 0:
        return {}
    for name in ("mysql", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(directory, user.pw_uid, user.pw_gid)
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}
    message = "it does not run as root, and there is no user mysql or nobody"
    raise _NoServerError(message)


def _install(install: str, data: Path, directory: Path, account: dict[str, Any]) -> None:
    """Make the system tables. `root` has no password, since the server listens on this machine only."""
    command = (
        install,
        "--no-defaults",
        f"--datadir={data}",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
    )
    with (directory / "install.log").open("wb") as log:
        done = subprocess.run(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
            timeout=120,
            **account,
        )
    if done.returncode:
        message = f"mariadb-install-db failed: {(directory / 'install.log').read_text(errors='replace').strip()[-500:]}"
        raise _NoServerError(message)


def _start(server: str, data: Path, directory: Path, account: dict[str, Any]) -> int:
    """Start the server on a free port; retry if another process takes the port first."""
    start = directory / "start.sql"
    start.write_text("CREATE DATABASE IF NOT EXISTS shop;\n")
    for _ in range(_ATTEMPTS):
        port = _free_port()
        options = (
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={directory / 'socket'}",
            f"--pid-file={directory / 'pid'}",
            f"--init-file={start}",
            "--bind-address=127.0.0.1",
            f"--port={port}",
            *_UNSAFE_BUT_FAST,
        )
        with (directory / "log").open("ab") as log:
            process = subprocess.Popen(
                (server, *options),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **account,
            )
        if _serves(process, port):
            _clean_up_after_us(directory, process)
            return port
    message = f"mariadbd does not start: {(directory / 'log').read_text(errors='replace').strip()[-500:]}"
    raise _NoServerError(message)


def _serves(process: "subprocess.Popen[bytes]", port: int) -> bool:
    """True as soon as the server answers; False if it exits or does not answer in time."""
    deadline = time.monotonic() + _DEADLINE
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    process.kill()
    process.wait()
    return False


def _clean_up_after_us(directory: Path, process: "subprocess.Popen[bytes]") -> None:
    """Stop the server and remove its files when this process ends, even if it is killed: the pipe then closes."""
    script = 'cat; kill "$1"; while kill -0 "$1" 2>/dev/null; do sleep 0.1; done; rm -rf "$0"'
    watch = subprocess.Popen(
        ("sh", "-c", script, str(directory), str(process.pid)),
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def clean_up() -> None:
        assert watch.stdin is not None
        watch.stdin.close()
        process.wait()
        watch.wait()

    atexit.register(clean_up)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
