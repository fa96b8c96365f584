"""The files for TLS that OpenTelemetry's environment variables name, for OTLP over HTTP and gRPC alike."""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import certifi


class TlsFiles(NamedTuple):
    """Paths, "" where the environment names none."""

    authorities: str
    key: str
    certificate: str


def tls_files(environ: Mapping[str, str] = os.environ) -> TlsFiles:
    """The files for traces, else those for all signals."""

    def path(name: str) -> str:
        variables = (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}")
        return next(filter(None, (environ.get(variable, "") for variable in variables)), "")

    return TlsFiles(path("CERTIFICATE"), path("CLIENT_KEY"), path("CLIENT_CERTIFICATE"))


def tls_context(environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """A context with the files as they are now.

    Raises:
        OSError: A file is missing, or is no certificate or key.
    """
    files = tls_files(environ)
    # the last three are what the official exporter looks at, by way of requests
    bundles = (environ.get(name, "") for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
    authorities = files.authorities or next(filter(None, bundles), "") or certifi.where()
    folder = Path(authorities).is_dir()
    context = ssl.create_default_context(cafile=None if folder else authorities, capath=authorities if folder else None)
    if files.certificate:
        context.load_cert_chain(files.certificate, files.key or None)
    return context
