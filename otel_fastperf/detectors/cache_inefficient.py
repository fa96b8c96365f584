"""`cache_inefficient`: a cache mostly misses, or has no limit and keeps growing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.settings import CacheSettings

#: multiple of `settings.lookups` after which a cache is judged even if it is still filling
_WARM_AFTER: Final = 5
#: consecutive periods of `settings.lookups` look-ups in which a cache without a limit must have grown
_GROWING: Final = 3
#: minimum number of new entries per look-up for growth to be reported
_GROWTH_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """Use of a cache over a period of at least `settings.lookups` look-ups.

    Attributes:
        name: Name of the cache.
        lookups: Number of look-ups in the period.
        hits: Number of hits in the period.
        lookups_so_far: Number of look-ups since the cache was first observed.
        size: Number of entries; None if unknown.
        grown: Number of entries added in the period; None if unknown.
        maxsize: Limit on the number of entries; None without a limit or if unknown.
        growing: Number of consecutive periods, up to this one, in which the cache has grown.
        call_site: Where the cached function is defined.
    """

    name: str
    lookups: int
    hits: int
    lookups_so_far: int
    size: int | None = None
    grown: int | None = None
    maxsize: int | None = None
    growing: int = 0
    call_site: CallSite | None = None

    @property
    def hit_ratio(self) -> float:
        """Share of look-ups that were hits, 0 to 1."""
        return self.hits / self.lookups if self.lookups else 1.0

    @property
    def full(self) -> bool:
        """Whether each new entry evicts an old one."""
        return self.size is not None and self.maxsize is not None and self.size >= self.maxsize


def detect_cache_inefficient(use: CacheUse, settings: CacheSettings) -> Iterator[Finding]:
    """Yield a finding for a hit ratio below `settings.hit_ratio`, or for a large cache without a limit that grows."""
    if use.lookups < settings.lookups:
        return
    if use.hit_ratio < settings.hit_ratio and _is_warm(use, settings):
        yield _finding(use, _misses(use), _remedy_for_misses(use))
    elif _grows_without_bound(use, settings):
        yield _finding(
            use,
            f"Cache {use.name} has no limit and {use.size:,} entries, {use.grown:,} of them added in its last"
            f" {use.lookups:,} look-ups.",
            "Limit it, for example with `@lru_cache(maxsize=1024)` or `cachetools.TTLCache(maxsize=1024, ttl=60)`.",
        )


def _is_warm(use: CacheUse, settings: CacheSettings) -> bool:
    """Whether the cache has filled up. Until then the first look-up of every key is an inevitable miss."""
    misses = use.lookups - use.hits
    evicts = use.grown is not None and misses >= 2 * use.grown
    return use.full or evicts or use.lookups_so_far >= _WARM_AFTER * settings.lookups


def _grows_without_bound(use: CacheUse, settings: CacheSettings) -> bool:
    if use.maxsize is not None or use.size is None or use.grown is None:
        return False
    return (
        use.size >= settings.unbounded_size
        and use.growing >= _GROWING
        and use.grown >= max(1, _GROWTH_SHARE * use.lookups)
    )


def _misses(use: CacheUse) -> str:
    message = f"Cache {use.name} had {use.hits:,} hits in its last {use.lookups:,} look-ups ({use.hit_ratio:.0%})"
    if use.size is None:
        return f"{message}."
    limit = f"of at most {use.maxsize:,}" if use.maxsize is not None else "and no limit"
    return f"{message}. It has {use.size:,} entries {limit}."


def _remedy_for_misses(use: CacheUse) -> str:
    key = "Remove from the key whatever does not affect the result, such as the time, the request or a session."
    if use.full:
        return f"{key} If keys do recur, raise `maxsize` above their number (now {use.maxsize:,})."
    if use.maxsize is None and use.size is not None:
        return f"{key} Set a `maxsize`. If no key ever recurs, remove the cache."
    return f"{key} If keys do recur, let entries live longer (TTL)."


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
