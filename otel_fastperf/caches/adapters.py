"""From a cache of some library to how often it was asked and what it answered.

What counts as a look-up:

    functools, async_lru, cachetools with `info=True`   what the function's own `cache_info()` says
    cachetools                                          `cache[key]` and `cache.get(key)`, as `@cached` uses them too
    aiocache                                            `get` and `multi_get`, key by key
    fastapi-cache                                       `get_with_ttl`, which is what `@cache` asks its backend
    redis, valkey and the like                          GET, GETEX, HGET, MGET and HMGET of this client, key by key

The last one is not `keyspace_hits` of INFO, which all clients of a server share. Commands in a pipeline do not count.

Where a library does not count, the cache *object* is given a subclass of its own class that does. The library's classes
stay as they are, and so do all other objects of them. The counts need no lock: between reading and writing a number,
the interpreter does not switch threads.
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

#: the class attribute by which an object that is counted is known
_COUNTS: Final = "_otel_fastperf_counts"

#: `_set_class(thing, cls)`: as `thing.__class__ = cls`, also for one that says that it is of another class
_set_class: Final = vars(object)["__class__"].__set__

Failed = Callable[[Exception], None]


class Reading(NamedTuple):
    """What a cache says of itself. Numbers of look-ups are totals, which start at 0 again when it is cleared."""

    hits: int
    misses: int
    #: entries that left for want of room, as far as it is known
    evictions: int | None = None
    size: int | None = None
    #: None without a limit, or where it is not known
    maxsize: int | None = None


class Adapter(Protocol):
    """One cache. It is held weakly."""

    #: what it is called unless the user names it
    name: str
    #: where the cached function is defined
    call_site: CallSite | None

    def install(self, failed: Failed) -> None:
        """Begin to count, where the library does not. Failures of counting go to `failed`."""

    def remove(self) -> None:
        """Undo it."""

    def read(self) -> Reading | None:
        """The numbers; None while there are none."""

    def target(self) -> object | None:
        """The cache that was given; None once it is gone."""


def adapter_of(cache: Any) -> Adapter:
    """The adapter for a cache, or for a function that is cached.

    Raises:
        SetupError: It is none that is known; the message names the cure.
    """
    if cache is not None and cache is _loaded("fastapi_cache", "FastAPICache"):
        return _FastAPICacheAdapter(cache)
    if callable(getattr(cache, "cache_info", None)):
        return _InfoAdapter(cache)
    kind = _kind_of(cache)
    if kind is not None:
        return _CountingAdapter(cache, kind, name=name_of(cache) or type(cache).__name__)
    inner = getattr(cache, "cache", None)
    kind = _kind_of(inner)
    if kind is not None:
        return _CountingAdapter(inner, kind, name=_function_name(cache), function=cache)
    raise SetupError(_unknown(cache, inner))


def _unknown(cache: object, inner: object) -> str:
    kind = type(cache).__qualname__
    if type(inner) is dict:
        return (
            f"observe_cache got {_function_name(cache)}, which is cached in a plain dict that cannot be counted."
            " Cure: add info=True to cachetools' @cached."
        )
    return (
        f"observe_cache got a {type(cache).__module__}.{kind}, which is no cache that is known. Cure: pass a function"
        " with functools.lru_cache, a cache of cachetools or a function with its @cached, a cache of aiocache or a"
        " function with its @cached, FastAPICache or its backend, or a client of redis."
    )


def _loaded(module: str, name: str) -> Any:
    """A class of a library, if that is loaded: who has not loaded it has no object of it."""
    return getattr(sys.modules.get(module), name, None)


def _function_name(function: Any) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _definition(function: Any) -> CallSite | None:
    """The first line of a function's definition: of its decorators, if it has any."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return None if code is None else CallSite(code.co_filename, code.co_firstlineno, code.co_qualname)


class _InfoAdapter:
    """A function that counts by itself."""

    def __init__(self, function: Any) -> None:
        self.name = _function_name(function)
        self.call_site = _definition(function)
        self._function = weakref.ref(function)
        self._evictions = 0
        self._last: Reading | None = None

    def install(self, failed: Failed) -> None:
        """Nothing to do."""

    def remove(self) -> None:
        """Nothing to do."""

    def target(self) -> object | None:
        return self._function()

    def read(self) -> Reading | None:
        function = self._function()
        if function is None:
            return None
        hits, misses, maxsize, size = function.cache_info()
        last, limit = self._last, _limit(maxsize)
        if last is not None and limit is not None and last.size == size == limit and misses > last.misses:
            # full before and after: each miss drove out an entry, but for those whose call failed
            self._evictions += misses - last.misses
        evictions = None if limit is None else self._evictions
        self._last = Reading(hits, misses, evictions, size, limit)
        return self._last


def _limit(maxsize: Any) -> int | None:
    return None if maxsize is None or maxsize == math.inf else int(maxsize)


@dataclass(slots=True)
class _Counts:
    """Of one object, whoever observes it."""

    failed: Failed
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    #: calls of `__setitem__` that are under way
    storing: int = 0
    #: adapters that are installed
    users: int = 0

    @property
    def totals(self) -> tuple[int, int, int]:
        """Hits, misses, evictions."""
        return self.hits, self.misses, self.evictions

    def note(self, found: Callable[[Any], Iterator[bool]], answer: Any) -> None:
        """Count what an answer says. Never raises: the app is waiting for its answer."""
        try:
            for hit in found(answer):
                if hit:
                    self.hits += 1
                else:
                    self.misses += 1
        except Exception as error:  # noqa: BLE001 - an answer of a form that nobody has seen
            self.failed(error)


#: the methods that count, for a class and the counts of one object of it
_Methods = Callable[[type, _Counts], dict[str, Any]]


class _Kind(NamedTuple):
    methods: _Methods
    size: Callable[[Any], int | None]
    maxsize: Callable[[Any], int | None]
    evicts: bool = False


class _CountingAdapter:
    """An object that is made to count."""

    def __init__(self, cache: Any, kind: _Kind, *, name: str, function: Any = None) -> None:
        self.name = name
        self.call_site = None if function is None else _definition(function)
        self._cache = weakref.ref(cache)
        self._kind = kind
        self._counts: _Counts | None = None
        #: hits, misses and evictions: those of earlier installations, less what was counted before this one
        self._other: tuple[int, ...] = (0, 0, 0)

    def install(self, failed: Failed) -> None:
        cache = self._cache()
        if cache is None or self._counts is not None:
            return
        counts = type(cache).__dict__.get(_COUNTS)
        if counts is None:
            counts = _Counts(failed)
            _set_class(cache, _counting(type(cache), counts, self._kind.methods))
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
            hits, misses, evictions if self._kind.evicts else None, self._kind.size(cache), self._kind.maxsize(cache)
        )


class _FastAPICacheAdapter:
    """`FastAPICache` itself, whose backend comes when the app calls `init`, as a rule in its lifespan."""

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
        backend = getattr(self._cache, "_backend", None)  # `get_backend()` fails while there is none
        if self._failed is None or backend is (self._backend and self._backend.target()):
            return
        if self._backend is not None:
            self._backend.remove()
        kind = _kind_of(backend)
        self._backend = None if kind is None else _CountingAdapter(backend, kind, name=self.name)
        if self._backend is not None:
            self._backend.install(self._failed)


def _counting(base: Any, counts: _Counts, methods: _Methods) -> type:
    """A subclass of `base` with its name and layout, whose objects say that they are of `base`.

    So do their copies and pickles; pickle checks that both say the same.
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


def _kind_of(cache: object) -> _Kind | None:
    for (module, name), kind in _KINDS.items():
        known = _loaded(module, name)
        if isinstance(known, type) and isinstance(cache, known):
            return kind
    client = all(callable(getattr(cache, method, None)) for method in ("execute_command", "get", "mget", "hget"))
    return _REDIS if client and not isinstance(cache, type) else None


def _cachetools_methods(base: Any, counts: _Counts) -> dict[str, Any]:
    def __getitem__(self: Any, key: Any, *more: Any) -> Any:  # noqa: N807
        missed = counts.misses
        value = base.__getitem__(self, key, *more)
        if counts.misses == missed:
            counts.hits += 1
        return value

    def __missing__(self: Any, key: Any) -> Any:  # noqa: N807 - every cache of the library comes here
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
    """An eviction is a `popitem` to make room; `clear()` of older versions calls it, too."""

    def __setitem__(self: Any, key: Any, value: Any, *more: Any) -> None:  # noqa: N807
        counts.storing += 1
        try:
            base.__setitem__(self, key, value, *more)
        finally:
            counts.storing -= 1

    def popitem(self: Any) -> Any:
        # older versions look the entry up to remove it
        asked = counts.hits, counts.misses
        item = base.popitem(self)
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
    """Entries of a cache that keeps them in a dict; of one that keeps them elsewhere, None."""

    def length(cache: Any) -> int | None:
        entries = getattr(cache, attribute, None)
        return len(entries) if isinstance(entries, dict) else None

    return length


def _unknown_size(_cache: Any) -> None:
    return None


_KINDS: Final = {
    ("cachetools", "Cache"): _Kind(
        _cachetools_methods, lambda cache: int(cache.currsize), lambda cache: _limit(cache.maxsize), evicts=True
    ),
    ("aiocache.base", "BaseCache"): _Kind(_aiocache_methods, _length_of("_cache"), _unknown_size),
    ("fastapi_cache.types", "Backend"): _Kind(_fastapi_cache_methods, _length_of("_store"), _unknown_size),
}
_REDIS: Final = _Kind(_redis_methods, _unknown_size, _unknown_size)
