"""Adapters that read hits and misses from the caches of several libraries.

These count as look-ups:

    functools, async_lru, cachetools with `info=True`   the counts of the function's own `cache_info()`
    cachetools                                          `cache[key]` and `cache.get(key)`, which `@cached` uses too
    aiocache                                            `get` and `multi_get`, for each key
    fastapi-cache                                       `get_with_ttl`, which `@cache` calls on its backend
    redis, valkey and the like                          GET, GETEX, HGET, MGET and HMGET of this client, for each key

For Redis this differs from `keyspace_hits` of INFO, which all clients of a server share. Commands in a pipeline do not
count.

If a library does not count, the class of the cache *object* is replaced by a subclass that does. The library's classes
and all their other objects stay unchanged. The counts need no lock, because the interpreter does not switch threads
between reading and writing a number.
"""

import inspect
import math
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from otel_fastperf.errors import SetupError
from otel_fastperf.findings import CallSite
from otel_fastperf.internals.app_globals import name_of
from otel_fastperf.internals.frames import definition

#: class attribute that marks a counting subclass and holds the counts
_COUNTS: Final = "_otel_fastperf_counts"

#: `_set_class(thing, cls)` is `thing.__class__ = cls`, but also works if `__class__` is overridden
_set_class: Final = vars(object)["__class__"].__set__

Failed = Callable[[Exception], None]


class Reading(NamedTuple):
    """The counts of a cache. Totals restart at 0 when it is cleared; None means unknown.

    Attributes:
        hits: Total of hits.
        misses: Total of misses.
        evictions: Total of entries removed to make room.
        size: Number of entries.
        maxsize: Limit on the number of entries; None also without a limit.
    """

    hits: int
    misses: int
    evictions: int | None = None
    size: int | None = None
    maxsize: int | None = None


class Adapter(Protocol):
    """Access to one cache, which it references weakly.

    Attributes:
        name: Default name of the cache.
        call_site: Where the cached function is defined.
    """

    name: str
    call_site: CallSite | None

    def install(self, failed: Failed) -> None:
        """Start counting if the library does not. Failures of counting are passed to `failed`."""

    def remove(self) -> None:
        """Stop counting and restore the cache."""

    def read(self) -> Reading | None:
        """Read the counts; None if there are none yet."""

    def target(self) -> object | None:
        """Return the cache; None once it is gone."""


def adapter_of(cache: Any) -> Adapter:
    """Return the adapter for a cache or for a cached function.

    Raises:
        SetupError: The cache is of an unknown kind; the message names the remedy.
    """
    if cache is not None and cache is _loaded("fastapi_cache", "FastAPICache"):
        return _FastAPICacheAdapter(cache)
    if callable(getattr(cache, "cache_info", None)):
        return _InfoAdapter(cache)
    library = _library_of(cache)
    if library is not None:
        return _CountingAdapter(cache, library, name=name_of(cache) or type(cache).__name__)
    inner = getattr(cache, "cache", None)
    library = _library_of(inner)
    if library is not None:
        return _CountingAdapter(inner, library, name=_function_name(cache), function=cache)
    raise SetupError(_unknown(cache, inner))


def _unknown(cache: object, inner: object) -> str:
    kind = type(cache).__qualname__
    if type(inner) is dict:
        return (
            f"observe_cache got {_function_name(cache)}, whose cache is a plain dict and cannot count."
            " Remedy: add info=True to cachetools' @cached."
        )
    return (
        f"observe_cache got a {type(cache).__module__}.{kind}, which is not a known cache. Remedy: pass a function with"
        " functools.lru_cache, a cache of cachetools or a function with its @cached, a cache of aiocache or a function"
        " with its @cached, FastAPICache or its backend, or a client of redis."
    )


def _loaded(module: str, name: str) -> Any:
    """Return a class of a library. None if the library is not imported: then no object can be of that class."""
    return getattr(sys.modules.get(module), name, None)


def _function_name(function: Any) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__qualname__)}"


class _InfoAdapter:
    """A function with `cache_info()`, which counts its own hits and misses."""

    def __init__(self, function: Any) -> None:
        self.name = _function_name(function)
        self.call_site = definition(function)
        self._function = weakref.ref(function)
        self._evictions = 0
        self._last: Reading | None = None

    def install(self, failed: Failed) -> None:
        """Do nothing: the function counts."""

    def remove(self) -> None:
        """Do nothing: the function counts."""

    def target(self) -> object | None:
        return self._function()

    def read(self) -> Reading | None:
        function = self._function()
        if function is None:
            return None
        hits, misses, maxsize, size = function.cache_info()
        last, limit = self._last, _limit(maxsize)
        if last is not None and limit is not None and last.size == size == limit and misses > last.misses:
            # full before and after, so each miss evicted an entry, except for calls that failed
            self._evictions += misses - last.misses
        evictions = None if limit is None else self._evictions
        self._last = Reading(hits, misses, evictions, size, limit)
        return self._last


def _limit(maxsize: Any) -> int | None:
    return None if maxsize is None or maxsize == math.inf else int(maxsize)


@dataclass(slots=True)
class _Counts:
    """The counts of one object, shared by all its adapters."""

    failed: Failed
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    #: number of `__setitem__` calls in progress
    storing: int = 0
    #: number of installed adapters
    users: int = 0

    @property
    def totals(self) -> tuple[int, int, int]:
        """Hits, misses, evictions."""
        return self.hits, self.misses, self.evictions

    def note(self, found: Callable[[Any], Iterator[bool]], answer: Any) -> None:
        """Count the hits and misses of an answer. Never raises, because the app is waiting for the answer."""
        try:
            for hit in found(answer):
                if hit:
                    self.hits += 1
                else:
                    self.misses += 1
        except Exception as error:  # noqa: BLE001 - the answer has an unexpected form
            self.failed(error)


#: makes the counting methods for a class and the counts of one of its objects
_Methods = Callable[[type, _Counts], dict[str, Any]]


class _Library(NamedTuple):
    """How the caches of a library are counted and measured."""

    methods: _Methods
    size: Callable[[Any], int | None]
    maxsize: Callable[[Any], int | None]
    evicts: bool = False


class _CountingAdapter:
    """An object whose class is replaced by a counting subclass."""

    def __init__(self, cache: Any, library: _Library, *, name: str, function: Any = None) -> None:
        self.name = name
        self.call_site = None if function is None else definition(function)
        self._cache = weakref.ref(cache)
        self._library = library
        self._counts: _Counts | None = None
        #: offset to the shared counts: those of earlier installations minus those before this one
        self._other: tuple[int, ...] = (0, 0, 0)

    def install(self, failed: Failed) -> None:
        cache = self._cache()
        if cache is None or self._counts is not None:
            return
        counts = type(cache).__dict__.get(_COUNTS)
        if counts is None:
            counts = _Counts(failed)
            _set_class(cache, _counting(type(cache), counts, self._library.methods))
        counts.users += 1
        self._counts = counts
        self._other = tuple(other - now for other, now in zip(self._other, counts.totals, strict=True))

    def remove(self) -> None:
        cache, counts, self._counts = self._cache(), self._counts, None
        if counts is None:
            return
        self._other = tuple(other + now for other, now in zip(self._other, counts.totals, strict=True))
        counts.users -= 1
        if not counts.users and cache is not None and type(cache).__dict__.get(_COUNTS) is counts:
            _set_class(cache, type(cache).__mro__[1])

    def target(self) -> object | None:
        return self._cache()

    def read(self) -> Reading | None:
        cache, counts = self._cache(), self._counts
        if cache is None or counts is None:
            return None
        hits, misses, evictions = (other + now for other, now in zip(self._other, counts.totals, strict=True))
        return Reading(
            hits,
            misses,
            evictions if self._library.evicts else None,
            self._library.size(cache),
            self._library.maxsize(cache),
        )


class _FastAPICacheAdapter:
    """`FastAPICache`, whose backend is known once the app has called `init`, usually in its lifespan."""

    def __init__(self, cache: Any) -> None:
        self.name = "FastAPICache"
        self.call_site: CallSite | None = None
        self._cache = cache
        self._failed: Failed | None = None
        self._backend: _CountingAdapter | None = None

    def install(self, failed: Failed) -> None:
        self._failed = failed
        self._look_for_backend()

    def remove(self) -> None:
        self._failed = None
        if self._backend is not None:
            self._backend.remove()
            self._backend = None

    def target(self) -> object | None:
        return self._cache  # type: ignore[no-any-return]

    def read(self) -> Reading | None:
        self._look_for_backend()
        return None if self._backend is None else self._backend.read()

    def _look_for_backend(self) -> None:
        backend = getattr(self._cache, "_backend", None)  # `get_backend()` raises before `init`
        if self._failed is None or backend is (self._backend and self._backend.target()):
            return
        if self._backend is not None:
            self._backend.remove()
        library = _library_of(backend)
        self._backend = None if library is None else _CountingAdapter(backend, library, name=self.name)
        if self._backend is not None:
            self._backend.install(self._failed)


def _counting(base: Any, counts: _Counts, methods: _Methods) -> type:
    """Make a subclass of `base` with its name and layout, whose objects claim to be of class `base`.

    Copies and pickles are of class `base`. pickle requires that `__class__` and `__reduce_ex__` agree.
    """

    def __reduce_ex__(self: Any, protocol: Any) -> Any:  # noqa: N807
        reduced = base.__reduce_ex__(self, protocol)
        if not isinstance(reduced, tuple) or type(reduced[1]) is not tuple:
            return reduced
        arguments = tuple(base if argument is counting else argument for argument in reduced[1])
        return (reduced[0], arguments, *reduced[2:])

    def __copy__(self: Any) -> Any:  # noqa: N807
        copy = base.__copy__(self)
        if type(copy) is counting:
            _set_class(copy, base)
        return copy

    body: dict[str, Any] = {
        "__slots__": (),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__class__": property(lambda _self: base),
        "__reduce_ex__": __reduce_ex__,
        _COUNTS: counts,
        **methods(base, counts),
    }
    if hasattr(base, "__copy__"):
        body["__copy__"] = __copy__
    counting: type = type(base)(base.__name__, (base,), body)
    return counting


def _library_of(cache: object) -> _Library | None:
    for (module, name), library in _LIBRARIES.items():
        known = _loaded(module, name)
        if isinstance(known, type) and isinstance(cache, known):
            return library
    client = all(callable(getattr(cache, method, None)) for method in ("execute_command", "get", "mget", "hget"))
    return _REDIS if client and not isinstance(cache, type) else None


def _cachetools_methods(base: Any, counts: _Counts) -> dict[str, Any]:
    def __getitem__(self: Any, key: Any, *more: Any, **named: Any) -> Any:  # noqa: N807
        missed = counts.misses
        value = base.__getitem__(self, key, *more, **named)
        if counts.misses == missed:
            counts.hits += 1
        return value

    def __missing__(self: Any, key: Any) -> Any:  # noqa: N807 - every cache of the library calls it
        counts.misses += 1
        return base.__missing__(self, key)

    def get(self: Any, key: Any, *more: Any, **named: Any) -> Any:
        before = counts.hits, counts.misses
        value = base.get(self, key, *more, **named)
        if (counts.hits, counts.misses) == before:
            counts.misses += 1
        return value

    return {"__getitem__": __getitem__, "__missing__": __missing__, "get": get, **_evictions_counted(base, counts)}


def _evictions_counted(base: Any, counts: _Counts) -> dict[str, Any]:
    """Count a `popitem` during `__setitem__` as an eviction; `clear()` of older versions calls `popitem`, too."""

    def __setitem__(self: Any, key: Any, value: Any, *more: Any, **named: Any) -> None:  # noqa: N807
        counts.storing += 1
        try:
            base.__setitem__(self, key, value, *more, **named)
        finally:
            counts.storing -= 1

    def popitem(self: Any, *more: Any, **named: Any) -> Any:
        # older versions look up the entry that they remove
        asked = counts.hits, counts.misses
        item = base.popitem(self, *more, **named)
        counts.hits, counts.misses = asked
        if counts.storing:
            counts.evictions += 1
        return item

    return {"__setitem__": __setitem__, "popitem": popitem}


def _aiocache_methods(base: Any, counts: _Counts) -> dict[str, Any]:
    async def get(self: Any, *arguments: Any, **named: Any) -> Any:
        value = await base.get(self, *arguments, **named)
        default = arguments[1] if len(arguments) > 1 else named.get("default")
        counts.note(lambda answer: iter([answer is not default]), value)
        return value

    async def multi_get(self: Any, *arguments: Any, **named: Any) -> Any:
        values = await base.multi_get(self, *arguments, **named)
        counts.note(_each, values)
        return values

    return {"get": get, "multi_get": multi_get}


def _fastapi_cache_methods(base: Any, counts: _Counts) -> dict[str, Any]:
    async def get_with_ttl(self: Any, *arguments: Any, **named: Any) -> Any:
        answer = await base.get_with_ttl(self, *arguments, **named)
        counts.note(lambda answer: iter([answer[1] is not None]), answer)
        return answer

    return {"get_with_ttl": get_with_ttl}


def _redis_methods(base: Any, counts: _Counts) -> dict[str, Any]:
    def counted(name: str, found: Callable[[Any], Iterator[bool]]) -> Callable[..., Any]:
        command = getattr(base, name)

        async def awaited(answer: Any) -> Any:
            value = await answer
            counts.note(found, value)
            return value

        def method(self: Any, *arguments: Any, **named: Any) -> Any:
            answer = command(self, *arguments, **named)
            if inspect.isawaitable(answer):
                return awaited(answer)
            counts.note(found, answer)
            return answer

        return method

    found = {"get": _one, "getex": _one, "hget": _one, "mget": _each, "hmget": _each}
    return {name: counted(name, each) for name, each in found.items() if hasattr(base, name)}


def _one(answer: Any) -> Iterator[bool]:
    yield answer is not None


def _each(answers: Any) -> Iterator[bool]:
    return (answer is not None for answer in answers)


def _length_of(attribute: str) -> Callable[[Any], int | None]:
    """Return a function for the number of entries of a cache that keeps them in a dict; None for other caches."""

    def length(cache: Any) -> int | None:
        entries = getattr(cache, attribute, None)
        return len(entries) if isinstance(entries, dict) else None

    return length


def _unknown_size(_cache: Any) -> None:
    return None


_LIBRARIES: Final = {
    ("cachetools", "Cache"): _Library(
        _cachetools_methods, lambda cache: int(cache.currsize), lambda cache: _limit(cache.maxsize), evicts=True
    ),
    ("aiocache.base", "BaseCache"): _Library(_aiocache_methods, _length_of("_cache"), _unknown_size),
    ("fastapi_cache.types", "Backend"): _Library(_fastapi_cache_methods, _length_of("_store"), _unknown_size),
}
_REDIS: Final = _Library(_redis_methods, _unknown_size, _unknown_size)
