"""Imported first by each Python process below `otel-fastperf run`, which puts this folder on their PYTHONPATH.

It runs in whatever interpreter the command starts, so it needs no package and no new syntax.
"""

import os
import sys
from importlib import import_module


def _start() -> None:
    try:
        from otel_fastperf.zero_code.apps import observe_apps
    except Exception as error:
        sys.stderr.write(
            "otel-fastperf run: {0} (Python {1}.{2}) cannot import otel_fastperf ({3}: {4}), so apps that it runs are"
            " not observed. Remedy: {0} -m pip install otel-fastperf (needs Python 3.11 or newer).\n".format(
                sys.executable, sys.version_info[0], sys.version_info[1], type(error).__name__, error
            )
        )
    else:
        observe_apps()


def _import_the_next() -> None:
    """Import the environment's own `sitecustomize`, which this module hides."""
    here = os.path.dirname(os.path.abspath(__file__))
    hidden, path = sys.modules.pop("sitecustomize", None), list(sys.path)
    sys.path[:] = [entry for entry in path if os.path.abspath(entry or ".") != here]
    try:
        import_module("sitecustomize")
    except ImportError:
        if hidden is not None:
            sys.modules["sitecustomize"] = hidden
    finally:
        sys.path[:] = path


_import_the_next()
_start()
