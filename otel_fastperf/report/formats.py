"""A report as a page: JSON, text or HTML, by name."""

from typing import Final

from otel_fastperf.report.model import Report

#: what `--format` and `?format=` take
FORMATS: Final = ("json", "text", "html")


def report_as(report: Report, form: str, *, colour: bool = False) -> str:
    """The report in one of `FORMATS`. Only who asks for a form pays for its module."""
    if form == "html":
        from otel_fastperf.report.html import to_html

        return to_html(report)
    if form == "text":
        from otel_fastperf.report.text import to_text

        return to_text(report, colour=colour)
    return report.to_json()
