"""Bounds the labels whose values clients, called servers or handlers choose, so that none of them fills a metric.

Each open label has a bounded number of values, and so have the combinations of a metric's open labels. What is beyond
loses the value of one label only: `GET /items` keeps its name when a handler invents exceptions.
"""

from collections.abc import Mapping, Sequence
from typing import Final

#: value of a label that has too many; of all labels, where a metric has too many label sets
OVERFLOW: Final = "_OVERFLOW"

#: most values of each open label, by its name. Of the status there are no more: see `status_label`
_MOST: Final[Mapping[str, int]] = {
    "db_namespace": 100,
    "error_type": 100,
    "http_response_status_code": 502,
    "server_address": 100,
}
#: the same for each label that the application adds
_MOST_OF_OWN: Final = 100
#: most combinations of the open labels of a metric, and what is added to that for each label that has given way
_MOST_COMBINATIONS: Final = 600
_MORE_COMBINATIONS: Final = 100

#: what RFC 9110 calls a status
_STATUSES: Final = {number: str(number) for number in range(100, 600)}


def status_label(status: object) -> str:
    """A status as label value: `""` for none, `_OTHER` for what is no HTTP status."""
    return "" if status is None else _STATUSES.get(status, "_OTHER")  # type: ignore[call-overload]


class OpenLabels:
    """The open labels of one metric. Not safe to use from several threads."""

    def __init__(self, labels: Sequence[str], own: Sequence[str] = ()) -> None:
        """`labels`: the names of all labels of the metric. `own`: those of them that the application has added."""
        self._labels = labels
        self._most = {**dict.fromkeys(own, _MOST_OF_OWN), **_MOST}
        #: positions of the open labels, and the values of each
        self._seen: dict[int, set[str]] = {
            position: set() for position, label in enumerate(labels) if label in self._most
        }
        self._combinations: set[tuple[str, ...]] = set()

    def admitted(self, values: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
        """The label values that a new series may have, and the name of a label that had to give way, or `""`."""
        if not self._seen:
            return values, ""
        kept, gave_way = list(values), ""
        for position, seen in self._seen.items():
            if kept[position] not in seen and len(seen) >= self._most[self._labels[position]]:
                kept[position], gave_way = OVERFLOW, gave_way or self._labels[position]
        if len(self._seen) > 1:
            gave_way = self._combined(kept) or gave_way
        for position, seen in self._seen.items():
            seen.add(kept[position])
        return tuple(kept), gave_way

    def _combined(self, kept: list[str]) -> str:
        """Take the value of the label with most values while there are too many combinations; the first such label."""
        first = ""
        most = _MOST_COMBINATIONS
        for position in sorted(self._seen, key=lambda each: -len(self._seen[each])):
            combination = tuple(kept[each] for each in self._seen)
            if combination in self._combinations or len(self._combinations) < most:
                break
            kept[position], first = OVERFLOW, first or self._labels[position]
            most += _MORE_COMBINATIONS
        self._combinations.add(tuple(kept[each] for each in self._seen))
        return first
