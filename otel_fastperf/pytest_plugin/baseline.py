"""The file of what is known and does not fail: how old code takes budgets on without being mended first.

One entry a finding, sorted, by what stays when lines are inserted above; a request with too many statements is known
up to the number it had, so that it can only get better.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from otel_fastperf.pytest_plugin.budgets import Violation
from otel_fastperf.pytest_plugin.naming import Name

_VERSION: Final = 1


@dataclass(slots=True)
class Baseline:
    """Known violations, and the statements that a request was known to run."""

    known: dict[Name, int] = field(default_factory=dict)

    def knows(self, violation: Violation) -> bool:
        """True for what was there before, and is not worse."""
        return violation.name in self.known and violation.queries <= self.known[violation.name]

    def fixed(self, seen: Collection[Name], routes: Collection[str]) -> list[Name]:
        """Entries that were not seen again, although their routes were requested; sorted.

        What is known of a route that no test of this run has requested may still be there.
        """
        return sorted(name for name in self.known if name not in seen and _judged(name, routes))

    def updated(self, adopted: Mapping[Name, int], routes: Collection[str]) -> "Baseline":
        """What was found in this run, and what this run could not judge."""
        kept = {name: queries for name, queries in self.known.items() if not _judged(name, routes)}
        return Baseline({**kept, **adopted})

    def text(self) -> str:
        """As it stands in the file."""
        entries = [_entry(name, queries) for name, queries in sorted(self.known.items())]
        return json.dumps({"version": _VERSION, "findings": entries}, indent=2, ensure_ascii=False) + "\n"


def read(path: Path) -> Baseline:
    """The baseline in a file.

    Raises:
        pytest.UsageError: there is none, or it cannot be read; the message names the remedy.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["version"] != _VERSION:
            message = f"its version is {content['version']!r}, and this otel-fastperf reads {_VERSION}"
            raise ValueError(message)  # noqa: TRY301 - told below
        return Baseline({_name(entry): int(entry.get("queries", 0)) for entry in content["findings"]})
    except FileNotFoundError:
        message = f"fastperf: there is no baseline {path}. Remedy: make it with --fastperf-update-baseline."
        raise pytest.UsageError(message) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        message = f"fastperf: the baseline {path} cannot be read ({reason}). Remedy: --fastperf-update-baseline anew."
        raise pytest.UsageError(message) from None


def adopted(violations: Iterable[Violation]) -> dict[Name, int]:
    """Violations as entries; of several for the same route the worst."""
    entries: dict[Name, int] = {}
    for violation in violations:
        entries[violation.name] = max(violation.queries, entries.get(violation.name, 0))
    return entries


def _judged(name: Name, routes: Collection[str]) -> bool:
    return name.route in routes or (not name.route and bool(routes))


def _entry(name: Name, queries: int) -> dict[str, Any]:
    entry: dict[str, Any] = {field: value for field, value in name._asdict().items() if value}
    return {**entry, "queries": queries} if queries else entry


def _name(entry: Mapping[str, Any]) -> Name:
    return Name(*(str(entry.get(field, "")) for field in Name._fields))
