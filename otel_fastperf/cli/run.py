"""`otel-fastperf run COMMAND …`: run a server whose apps are observed without a change of their code."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from otel_fastperf.errors import RunError
from otel_fastperf.settings import Settings
from otel_fastperf.zero_code import __file__ as _zero_code

#: the folder whose `sitecustomize` Python imports when it starts
STARTUP: Final = str(Path(_zero_code).parent / "startup")


def run(command: Sequence[str]) -> NoReturn:
    """Become the command. Its Python processes, workers included, observe their apps.

    Raises:
        SettingsError: Settings in the environment are wrong.
        RunError: There is no such command.
    """
    Settings()
    name, *arguments = command
    program = found(name)
    if program is None:
        message = f"there is no command {name!r}. Remedy: pass what starts the service, for example uvicorn shop:app."
        raise RunError(message)
    sys.stdout.flush()
    if sys.platform == "win32":
        # there, `execve` ends this process at once, and its console takes it for the end of the service
        sys.exit(ended([program, *arguments], environment(os.environ)))
    # by its path: Python looks for its environment where its first argument says
    os.execve(program, [program, *arguments], environment(os.environ))  # noqa: S606 - the purpose of this command


def ended(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run the command until it ends by itself; its exit code."""
    with subprocess.Popen(command, env=variables) as process:  # noqa: S603 - the purpose of this command
        while True:
            # the console interrupts the command, too, which may have work to end
            with suppress(KeyboardInterrupt):
                return process.wait()


def found(name: str) -> str | None:
    """The path of a command: of this interpreter's environment, activated or not, else of the PATH."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join((beside, os.environ.get("PATH", os.defpath))))


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables with which Python imports our `sitecustomize` first."""
    others = [entry for entry in variables.get("PYTHONPATH", "").split(os.pathsep) if entry not in {"", STARTUP}]
    return {**variables, "PYTHONPATH": os.pathsep.join((STARTUP, *others))}
