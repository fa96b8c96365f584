"""Loads the app that the command line or a pytest option names as `module:app`. Imports only that module."""

import inspect
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from otel_fastperf.errors import AppError, SettingsError, SetupError


def load_app(target: str, *, factory: bool = False, factory_remedy: str) -> Any:
    """The FastAPI or Starlette app at `module:attribute`, without any middleware that wraps it.

    Args:
        target: Names the app. Modules in the working directory are found, and the attribute may be dotted.
        factory: Whether it names a function that makes the app.
        factory_remedy: What users must do if it names such a function; for an error message.

    Raises:
        AppError: There is no such app, or importing it fails.
        SettingsError: `setup_telemetry` raised it during the import.
        SetupError: `setup_telemetry` raised it during the import.
    """
    name, colon, attributes = target.partition(":")
    if not name or not colon or not attributes:
        message = (
            f"{target!r} does not name an app. Remedy: write MODULE:APP, as for uvicorn, for example shop.main:app."
        )
        raise AppError(message)
    # an entry that exists keeps its place: the ini option `pythonpath` of pytest sets an order
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path contains strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found: Any = import_module(name)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
        is_function = inspect.isroutine(found)
        found = found() if factory else found
    except (SettingsError, SetupError):
        raise
    except (Exception, SystemExit) as error:
        message = f"{target} cannot be imported: {_one_line(error)}. Remedy: {_remedy(error, name)}."
        raise AppError(message) from error
    app = _unwrapped(found)
    if app is None:
        remedy = "name the FastAPI app itself"
        if is_function and not factory:
            remedy = f"if it is a function that makes the app, {factory_remedy}"
        message = f"{target} is of type {type(found).__qualname__}, not a FastAPI app. Remedy: {remedy}."
        raise AppError(message)
    return app


def _unwrapped(found: Any) -> Any:
    # without this import, no object can be an app
    applications = sys.modules.get("starlette.applications")
    if applications is not None:
        for app in _inward(found):
            if isinstance(app, applications.Starlette):
                return app
    return None


def _inward(app: Any) -> Iterator[Any]:
    """The app and those that it wraps as the attribute `app`."""
    seen: set[int] = set()
    while app is not None and id(app) not in seen:
        seen.add(id(app))
        yield app
        app = getattr(app, "app", None)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _remedy(error: BaseException, name: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and name.startswith(error.name):
        return "run this in the directory from which the service is started, or set PYTHONPATH"
    return "run this with the service's environment variables and packages"
