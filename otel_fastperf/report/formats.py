"""A report in the format of a given name: JSON, text or HTML."""

from typing import Final

from otel_fastperf.report.model import Report

#: values of `--format` and `?format=`
FORMATS: Final = ("json", "text", "html")


def report_as(report: Report, form: str, *, colour: bool = False) -> str:
    """The report in one of `FORMATS`. The module of a format is imported at its first use."""
    if form == "html":
        from otel_fastperf.report.html import to_html

        return to_html(report)
    if form == "text":
        from otel_fastperf.report.text import to_text

        return to_text(report, colour=colour)
    return report.to_json()
