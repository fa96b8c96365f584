"""Which format a scraper gets, and whether it is compressed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_fastperf.exposition.negotiation import Format, format_for, gzip_accepted

TEXT = Format()
OPENMETRICS = Format(openmetrics=True)
UTF8 = Format(openmetrics=True, escaping="allow-utf-8")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        pytest.param("", TEXT, id="no header"),
        pytest.param("*/*", TEXT, id="curl"),
        pytest.param("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT, id="a browser"),
        pytest.param("text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT, id="Prometheus 2.4"),
        pytest.param(
            "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            TEXT,
            id="Prometheus 2.5",
        ),
        pytest.param(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OPENMETRICS,
            id="Prometheus 2.42",
        ),
        pytest.param(
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
            "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
            "text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            UTF8,
            id="Prometheus 3 with native histograms",
        ),
        pytest.param(
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.3",
            TEXT,
            id="Prometheus 3 that is told to scrape text",
        ),
        pytest.param("application/openmetrics-text", OPENMETRICS, id="no version"),
        pytest.param("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS, id="with charset"),
        pytest.param('Application/OpenMetrics-Text; Version="1.0.0"; Q=0.3', OPENMETRICS, id="spelled otherwise"),
        pytest.param("application/openmetrics-text;q=0.2,*/*", OPENMETRICS, id="named, though anything is preferred"),
        pytest.param("application/openmetrics-text;q=0", TEXT, id="refused"),
        pytest.param("application/openmetrics-text;q=0.000", TEXT, id="refused with digits"),
        pytest.param("application/openmetrics-text;q=0.3,text/plain;q=0.9", TEXT, id="text preferred"),
        pytest.param("application/openmetrics-text;q=0.5,text/plain;q=0.5", OPENMETRICS, id="both alike"),
        pytest.param("application/openmetrics-text;version=abc", TEXT, id="version that is none"),
        pytest.param("application/openmetrics-text;version=2.0.0", TEXT, id="version to come"),
        pytest.param("application/openmetrics-text;version=10.0", TEXT, id="version far away"),
        pytest.param("application/openmetrics-text;q=high", TEXT, id="quality that is none"),
        pytest.param("application/openmetrics-text;q=nan", TEXT, id="quality that is no number"),
        pytest.param("application/openmetrics-text;q=-1", TEXT, id="quality below 0"),
        pytest.param("application/openmetrics-text;q=2", TEXT, id="quality above 1"),
        pytest.param("application/openmetrics-text;escaping=rot13", OPENMETRICS, id="escaping that is none"),
        pytest.param("application/openmetrics-text;escaping=dots", Format(True, "dots"), id="escaping"),
        pytest.param("application/openmetrics-textual", TEXT, id="another type"),
        pytest.param(";;,,=;q=,;version", TEXT, id="garbage"),
        pytest.param("x," * 100_000 + "application/openmetrics-text", TEXT, id="huge"),
    ],
)
def test_the_accept_header_chooses_the_format(accept: str, expected: Format) -> None:
    assert format_for(accept) == expected


PIECES = st.sampled_from(
    ["application/openmetrics-text", "text/plain", "gzip", "*", "version", "q", "escaping", "1.0.0", "0.5", *',;=" /\\']
)


@given(st.lists(PIECES).map("".join) | st.binary().map(lambda header: header.decode("latin-1")))
def test_any_header_is_read_without_error(accept: str) -> None:
    assert isinstance(format_for(accept), Format)
    assert gzip_accepted(accept) in {True, False}


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("deflate, gzip;q=0.5, br", True),
        ("*", True),
        ("*;q=0.1", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("identity", False),
        ("br, zstd", False),
        ("gzipped", False),
        ("gzip;q=yes", False),
    ],
)
def test_the_accept_encoding_header_allows_gzip(accept_encoding: str, *, expected: bool) -> None:
    assert gzip_accepted(accept_encoding) is expected
