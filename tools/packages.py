"""uv, told to take packages from where pip takes them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent


#: pip's option -> uv's variable
_OPTIONS: Final = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "cert": "SSL_CERT_FILE"}


def uv(*arguments: str) -> None:
    """Run uv in the project's root.

    Raises:
        SystemExit: uv failed; the message is uv's own.
    """
    command = [_uv(), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), text=True, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def _uv() -> str:
    """The uv of the project's environment; else the one on the PATH."""
    own = Path(sys.executable).with_name("uv")
    return str(own) if own.exists() else shutil.which("uv") or "uv"


def _environment() -> dict[str, str]:
    """Hand pip's configuration to uv, which does not read it. Interpreters are found, never downloaded."""
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "never", "UV_SYSTEM_CERTS": "true"}
    for option, variable in _OPTIONS.items():
        value = _pip_option(option)
        if value:
            environment.setdefault(variable, value)
    return environment


def _pip_option(name: str) -> str:
    """What pip is told: `PIP_INDEX_URL` for `index-url`, else pip.conf's word, else nothing."""
    command = [sys.executable, "-m", "pip", "config", "get"]
    for key in (f":env:.{name}", f"install.{name}", f"global.{name}"):
        done = subprocess.run([*command, key], text=True, capture_output=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    return ""
