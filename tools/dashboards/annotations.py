"""What every dashboard marks on its graphs: restarts of processes, new versions, and alerts while they fire.

Grafana asks Prometheus for a range, and makes a mark, or a band over neighbouring points, for each series.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tools.dashboards.promql import ACTIVE_ALERTS, APP, EVERY_APP, on, series

#: seconds between two points of an annotation's query, as Grafana writes it: the longest that a new version may be
#: overlooked, and far below the time that its mark lasts
STEP: Final = "30s"
#: how long a version counts as new: its mark is a band of that width
NEW_FOR: Final = "2m"


@dataclass(frozen=True, slots=True)
class Annotation:
    """One kind of mark. `title` and `text` are templates of labels: `{{job}}`.

    Attributes:
        at_value: The marks are at the series' values, in Unix milliseconds, not at the times of its points.
    """

    name: str
    expr: str
    title: str
    text: str
    colour: str
    at_value: bool = False

    def as_json(self) -> dict[str, Any]:
        """As Grafana keeps it: the SDK has no fields for Prometheus' options."""
        source = {"type": "prometheus", "uid": "${datasource}"}
        return {
            "name": self.name,
            "datasource": source,
            "enable": True,
            "hide": False,
            "iconColor": self.colour,
            "expr": self.expr,
            "step": STEP,
            "titleFormat": self.title,
            "textFormat": self.text,
            "tagKeys": "job,instance,severity",
            "useValueForTime": "on" if self.at_value else "off",
            "target": {"datasource": source, "expr": self.expr, "interval": STEP, "refId": "Anno"},
        }


def _versions(*, before: str = "") -> str:
    """The versions that run, or ran a time ago."""
    offset = f" offset {before}" if before else ""
    one = series(EVERY_APP, 'service_version!=""')
    return f"count by (job, service_version) ({one}{offset})"


ANNOTATIONS: Final[Sequence[Annotation]] = (
    Annotation(
        "Restarts",
        f"process_start_time_seconds{{{APP}}} * 1000 > $__from and{on('job', 'instance')} {series(EVERY_APP)}",
        "{{job}} started",
        "{{instance}}",
        "blue",
        at_value=True,
    ),
    Annotation(
        "Deploys",
        f"{_versions()} unless {_versions(before=NEW_FOR)}",
        "{{job}} {{service_version}}",
        "Version {{service_version}} of {{job}} runs, which did not two minutes ago.",
        "purple",
    ),
    Annotation(
        "Alerts",
        f'max by (alertname, severity, job) (ALERTS{{alertstate="firing", {ACTIVE_ALERTS}}})',
        "{{alertname}}",
        "{{severity}} of {{job}}",
        "red",
    ),
)
