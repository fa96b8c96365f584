"""Versions of installed packages."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def installed_version(package: str) -> str:
    """Version of an installed package; `""` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
