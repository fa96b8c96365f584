"""Runs the service in a separate process, so that measurements do not include its client."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import httpx

HOST: Final = "127.0.0.1"
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 8.0


class ServerError(Exception):
    """The service cannot start or has exited. The message quotes the end of its log."""


def listen(port: int) -> socket.socket:
    """Return a listening socket on this port; 0 takes any free one.

    Raises:
        ServerError: The port is not available, usually because it is in use.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        message = f"Port {port} cannot be used: {os.strerror(error.errno or 0)}. Remedy: choose another --port."
        raise ServerError(message) from error


@asynccontextmanager
async def serving(listener: socket.socket, environ: Mapping[str, str], log: Path) -> AsyncIterator["Server"]:
    """Run the service on this socket during the `with` block; its output goes to `log`.

    Raises:
        ServerError: It exited before it answered.
    """
    url = f"http://{HOST}:{listener.getsockname()[1]}"
    with log.open("wb") as output, listener:
        # in a session of its own, so that Ctrl-C reaches only the parent, which then stops the service properly
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "demo.worker", str(listener.fileno())),
            env=os.environ | environ,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=[listener.fileno()],
        )
    server = Server(process, url, log)
    try:
        await server.started()
        yield server
    finally:
        await server.stop()


class Server:
    """A running service."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, log: Path) -> None:
        self.url = url
        self._process = process
        self._log = log

    async def started(self) -> None:
        """Wait until the service answers."""
        deadline = time.monotonic() + START_SECONDS
        async with httpx.AsyncClient(base_url=self.url) as client:
            while time.monotonic() < deadline:
                self.check()
                with suppress(httpx.HTTPError):
                    await client.get("/health")
                    return
                await asyncio.sleep(0.05)
        self._give_up(f"did not answer within {START_SECONDS:.0f} s")

    def check(self) -> None:
        """Raise `ServerError` if the service has exited."""
        if self._process.returncode is not None:
            self._give_up(f"exited with code {self._process.returncode}")

    async def stop(self) -> None:
        """Terminate the service; kill it if it does not exit in time."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    def _give_up(self, reason: str) -> None:
        last = self._log.read_text(errors="replace").strip().splitlines()[-15:]
        raise ServerError("\n  ".join((f"The service {reason}. The end of its log:", *last)))
