"""`cache_inefficient`: a cache that mostly misses, or one without a limit that grows and grows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.settings import CacheSettings

#: times `settings.lookups` after which a cache that is still filling is judged all the same
_WARM_AFTER: Final = 5
#: stretches of `settings.lookups` look-ups, one after the other, in each of which a cache without a limit has grown
_GROWING: Final = 3
#: new entries per look-up under which growth is not worth a word
_GROWTH_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """How a cache was used, over a stretch of at least `settings.lookups` look-ups."""

    name: str
    lookups: int
    hits: int
    #: look-ups since the cache is observed
    lookups_so_far: int
    #: entries now, and how many more than before; None where that is not known
    size: int | None = None
    grown: int | None = None
    #: most entries; None without a limit, or where it is not known
    maxsize: int | None = None
    #: stretches without a break, this one included, in which it has grown
    growing: int = 0
    #: where the cached function is defined
    call_site: CallSite | None = None

    @property
    def hit_ratio(self) -> float:
        """Share of the look-ups that the cache answered, 0 to 1."""
        return self.hits / self.lookups if self.lookups else 1.0

    @property
    def full(self) -> bool:
        """Each new entry drives out an old one."""
        return self.size is not None and self.maxsize is not None and self.size >= self.maxsize


def detect_cache_inefficient(use: CacheUse, settings: CacheSettings) -> Iterator[Finding]:
    """A cache whose hit ratio is under `settings.hit_ratio`; or one that has no limit, is large, and grows."""
    if use.lookups < settings.lookups:
        return
    if use.hit_ratio < settings.hit_ratio and _is_warm(use, settings):
        yield _finding(use, _misses(use), _cure_of_misses(use))
    elif _grows_without_bound(use, settings):
        yield _finding(
            use,
            f"Cache {use.name} has no limit and {use.size:,} entries, {use.grown:,} more in its last"
            f" {use.lookups:,} look-ups.",
            "Give it a limit, such as `@lru_cache(maxsize=1024)` or `cachetools.TTLCache(maxsize=1024, ttl=60)`.",
        )


def _is_warm(use: CacheUse, settings: CacheSettings) -> bool:
    """Is it no longer filling? Until then every first look-up of a key is a miss, and no fault."""
    misses = use.lookups - use.hits
    forgets = use.grown is not None and misses >= 2 * use.grown
    return use.full or forgets or use.lookups_so_far >= _WARM_AFTER * settings.lookups


def _grows_without_bound(use: CacheUse, settings: CacheSettings) -> bool:
    if use.maxsize is not None or use.size is None or use.grown is None:
        return False
    return (
        use.size >= settings.unbounded_size
        and use.growing >= _GROWING
        and use.grown >= max(1, _GROWTH_SHARE * use.lookups)
    )


def _misses(use: CacheUse) -> str:
    message = f"Cache {use.name} answered {use.hits:,} of its last {use.lookups:,} look-ups ({use.hit_ratio:.0%})"
    if use.size is None:
        return f"{message}."
    room = f"of at most {use.maxsize:,}" if use.maxsize is not None else "and no limit"
    return f"{message}; it has {use.size:,} entries {room}."


def _cure_of_misses(use: CacheUse) -> str:
    key = "Leave out of the key what the result does not depend on, such as the time, the request or a session"
    if use.full:
        return f"{key}; where the keys do come back, raise `maxsize` over their number (now {use.maxsize:,})."
    if use.maxsize is None and use.size is not None:
        return f"{key}; and give the cache a `maxsize`. Where no key ever comes back, take the cache away."
    return f"{key}; where the keys do come back, let entries live longer (TTL)."


def _finding(use: CacheUse, message: str, remedy: str) -> Finding:
    evidence: dict[str, str | int | float | bool] = {
        "hit_ratio": round(use.hit_ratio, 4),
        "lookups": use.lookups,
        "hits": use.hits,
    }
    if use.size is not None:
        evidence["size"] = use.size
    if use.maxsize is not None:
        evidence["maxsize"] = use.maxsize
    return Finding(
        kind=Kind.CACHE_INEFFICIENT,
        severity=Severity.WARNING,
        subject=use.name,
        message=message,
        remedy=remedy,
        evidence=evidence,
        call_site=use.call_site,
    )
