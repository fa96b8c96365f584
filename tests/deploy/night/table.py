"""The table of a drill, in Markdown."""

from collections.abc import Sequence

from tests.deploy.night.drill import Outcome, others
from tests.deploy.night.stack import Stack
from tests.deploy.night.watch import Told

_HEAD = """\
| Fault | What tells | fires after | is sent after | ends after the fault | lost |
|---|---|---|---|---|---|"""


def table(stack: Stack, outcomes: Sequence[Outcome]) -> str:
    """A row for each alert of each fault, and what else was told."""
    rows = [_HEAD]
    for outcome in outcomes:
        rows += _rows(stack, outcome)
    said = dict.fromkeys(_sentence(told) for outcome in outcomes for told in outcome.told if told is not None)
    also = sorted(_also(stack, outcomes))
    return "\n".join((*rows, "", "What the messages said:", "", *said, "", "Also told:", "", *(also or ["- nothing"])))


def _rows(stack: Stack, outcome: Outcome) -> list[str]:
    lost = f"{len(outcome.missing)} of {len(outcome.requests)} traces"
    name = outcome.fault.name
    if not outcome.fault.alerts:
        return [f"| {name} | the alerts that fire go on | | | | {lost} |"]
    rows = []
    for alert, told in zip(outcome.fault.alerts, outcome.told, strict=True):
        labels = alert.labels
        what = f"{labels['severity']} `{alert.name}`" + (f" {labels['kind']}" if "kind" in labels else "")
        if told is None:
            rows.append(f"| {name} | {what} | **never** | | | {lost} |")
        else:
            rows.append(f"| {name} | {what} | {_times(stack, outcome, told)} | {lost} |")
        name = lost = ""
    return rows


def _times(stack: Stack, outcome: Outcome, told: Told) -> str:
    since = outcome.began
    if told.severity == "page" and outcome.first_failure is not None and outcome.first_failure < told.fired:
        since = outcome.first_failure
    at = _sent(stack, outcome, told)
    sent = "" if at is None else duration(at - since)
    ended = "lasts" if told.ended is None else duration(told.ended - outcome.ended)
    return f"{duration(told.fired - since)} | {sent or 'not sent'} | {ended}"


def _sent(stack: Stack, outcome: Outcome, told: Told) -> float | None:
    """When the first message about an alert came, whichever of its windows saw the fault first."""
    return next(
        (
            message.at
            for message in stack.watch.messages()
            if message.status == "firing"
            and message.at > outcome.began
            and {**message.labels, "window": ""} == {**told.labels, "window": ""}
        ),
        None,
    )


def _sentence(told: Told) -> str:
    return f"- **{told.annotations['summary']}.** {told.annotations['description']}"


def _also(stack: Stack, outcomes: Sequence[Outcome]) -> set[str]:
    found = set()
    for told in others(stack, outcomes):
        labels = {key: value for key, value in told.labels.items() if key not in {"alertname", "severity", "instance"}}
        about = ", ".join(f"{key} {value}" for key, value in sorted(labels.items()))
        at = outcomes[0].began
        sent = "sent" if stack.watch.message(told) else "held back"
        found.add(f"- {told.severity} `{told.name}` ({about}), {duration(told.fired - at)} into the night, {sent}")
    return found


def duration(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(abs(seconds)), 60)
    sign = "-" if seconds < -0.5 else ""
    return sign + (f"{minutes} min {rest:02} s" if minutes else f"{rest} s")
