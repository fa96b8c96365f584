"""Panels as Grafana shows them: its own code for data, under node. See grafana/panels.cjs."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.deploy.servers import ROOT, program
from tools.servers import node

SCRIPT: Final = ROOT / "tests" / "deploy" / "grafana" / "panels.cjs"

#: refId of a query -> series as Prometheus answers them
Answers = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a table, or a series of a graph.

    Attributes:
        kind: `string`, `number` or `time`.
        colour: That of a series, `#rrggbb`.
        cells: How a table draws the cells; None for plain text.
        matched: Numbers of the panel's overrides that match it.
        texts: Its values as they are written.
        colours: The colours of its values.
    """

    name: str
    kind: str
    unit: str
    colour: str
    cells: Mapping[str, Any] | None
    matched: tuple[int, ...]
    texts: tuple[str, ...]
    colours: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """What panels show, in their order, and the hexadecimal values of Grafana's named colours."""

    panels: Sequence[Sequence[Field]]
    palette: Mapping[str, str]


def shown(panels: Sequence[tuple[Mapping[str, Any], Answers]]) -> Shown:
    """The fields of panels with these answers, in the order of columns; without the times of graphs."""
    found = node()
    assert found is not None, "the modules were installed with it"
    modules = program("grafana-data").parent
    given = json.dumps([{"panel": panel, "answers": answers} for panel, answers in panels])
    done = subprocess.run(
        [found, SCRIPT, modules], input=given, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    return Shown([[_field(one) for one in fields] for fields in told["panels"]], told["colors"])


def _field(told: Mapping[str, Any]) -> Field:
    values = told["values"]
    return Field(
        name=told["name"],
        kind=told["type"],
        unit=told["unit"],
        colour=told["color"] or "",
        cells=told["cells"],
        matched=tuple(told["matched"]),
        texts=tuple(value["text"] for value in values),
        colours=tuple(value["color"] or "" for value in values),
    )
