"""Makes the clock of rules and configurations faster: intervals, waits, windows, and constants that are seconds."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = r"(?:\d+[smhd])+"

#: keys of Prometheus' and Alertmanager's files whose value is a duration
_KEYS: Final = (
    "scrape_interval|scrape_timeout|evaluation_interval|refresh_interval|interval|for"
    "|group_wait|group_interval|repeat_interval|resolve_timeout"
)
#: where a rule compares or divides by a number of seconds
_SECONDS: Final = (
    r"process_start_time_seconds [<>] ",
    r"fastperf_export_failing_seconds > ",
    r"\) / (?=\d+\n)",
    r"\], ",
)


@dataclass(frozen=True)
class Clock:
    """`faster` is the factor by which time shrinks. Prometheus scrapes no more often than each second."""

    faster: float = 1.0
    #: a further factor for `keep_firing_for`, which makes an alert last and has no part in its beginning
    forgets: float = 1.0

    def rewritten(self, text: str) -> str:
        """The text of a rule file, prometheus.yml or alertmanager.yml with its durations divided."""
        if self.faster == 1:
            return text
        text = re.sub(rf"^( *(?:- )?(?:{_KEYS}): )({_DURATION})$", _second(self.shorter), text, flags=re.MULTILINE)
        keeps = _second(lambda found: self.shorter(found, self.forgets))
        text = re.sub(rf"^( *keep_firing_for: )({_DURATION})$", keeps, text, flags=re.MULTILINE)
        text = re.sub(rf"(\[)({_DURATION})(?=\])", _second(self.shorter), text)
        text = re.sub(rf"(\boffset )({_DURATION})\b", _second(self.shorter), text)
        for before in _SECONDS:
            text = re.sub(rf"({before})(\d+(?: \* \d+)?)\b", _second(self._fewer), text)
        return text

    def seconds(self, shipped: float) -> float:
        """How long what takes `shipped` seconds takes by this clock."""
        return shipped / self.faster

    def shorter(self, duration: str, further: float = 1.0) -> str:
        """A duration, of at least a second unless it was 0."""
        milliseconds = round(seconds(duration) * 1000 / self.faster / further)
        return f"{max(milliseconds, 1000 if seconds(duration) else 0)}ms"

    def _fewer(self, number: str) -> str:
        first, _, second = number.partition(" * ")
        return f"{int(first) * int(second or 1) / self.faster:g}"


def seconds(duration: str) -> float:
    """Seconds of a duration as Prometheus writes it: "1h30m"."""
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", duration))


def _second(change: Callable[[str], str]) -> Callable[[re.Match[str]], str]:
    return lambda found: found[1] + change(found[2])
