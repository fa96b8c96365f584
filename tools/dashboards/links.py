"""Links between the dashboards, and from them to traces in Jaeger, with the current time range."""

import json
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from grafana_foundation_sdk.models import dashboard as models


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a panel's data. `url` may contain Grafana's variables: `${__field.labels.job}`."""

    title: str
    url: str
    new_tab: bool = False

    def as_model(self) -> models.DashboardLink:
        """For a panel's field options, of which Grafana reads title, url and targetBlank."""
        return models.DashboardLink(
            title=self.title, type_val=models.DashboardLinkType.LINK, url=self.url, target_blank=self.new_tab
        )

    def as_json(self) -> dict[str, object]:
        """For an override of a column."""
        return {"title": self.title, "url": self.url, "targetBlank": self.new_tab}


def route_dashboard(job: str, method: str, route: str) -> Link:
    """The dashboard of one route; the parameters are names of Grafana's variables."""
    chosen = f"var-job={_put(job)}&var-method={_put(method)}&var-route={_put(route)}"
    return Link("Dashboard of this route", f"/d/fastperf-route?{chosen}&{_CONTEXT}")


def dashboard(uid: str, title: str) -> Link:
    """Another dashboard, for the same services and time range."""
    return Link(title, f"/d/{uid}?${{job:queryparam}}&${{instance:queryparam}}&{_CONTEXT}")


def service_dashboard(uid: str, title: str, job: str) -> Link:
    """A dashboard for one service; `job` is the name of Grafana's variable that has it."""
    return Link(title, f"/d/{uid}?var-job={_put(job)}&{_CONTEXT}")


def traces(job: str, *, tags: str = "", new_tab: bool = True) -> Link:
    """A search for traces of a service, within Grafana, so that it does not need the address of Jaeger's UI.

    `tags` is in logfmt, as Jaeger's search expects: `error=true http.route=/orders`.
    """
    query = {
        "refId": "A",
        "datasource": {"type": "jaeger", "uid": "${jaeger}"},
        "queryType": "search",
        "service": "SERVICE",
        "tags": "TAGS",
        "limit": 20,
    }
    pane = {
        "datasource": "${jaeger}",
        "queries": [query],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    text = quote(json.dumps({"a": pane}, separators=(",", ":")), safe="$")
    for name in ("${jaeger}", "${__from}", "${__to}"):
        text = text.replace(quote(name, safe="$"), name)
    text = text.replace("SERVICE", _put(job)).replace("TAGS", tags)
    return Link("Traces in Jaeger", f"/explore?schemaVersion=1&panes={text}", new_tab=new_tab)


def tag(name: str, variable: str) -> str:
    """`name=value` of a search for traces; Grafana fills in the value."""
    return f"{quote(f'{name}=', safe='')}{_put(variable)}"


def tags_of_route(method: str, route: str) -> str:
    """The tags of a search for one route's traces."""
    return f"{tag('http.request.method', method)}{quote(' ')}{tag('http.route', route)}"


def _put(variable: str) -> str:
    """A variable of Grafana, whose value is encoded for a URL."""
    return f"${{{variable}:percentencode}}"


_CONTEXT: Final = "${__url_time_range}&var-datasource=${datasource}"
