"""Hits, misses and evictions of the caches of each library, with the real libraries."""

import copy
import functools
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from otel_fastperf.caches.adapters import Adapter, Reading, adapter_of
from otel_fastperf.errors import SetupError

pytestmark = pytest.mark.anyio


def library(name: str, package: str | None = None) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install {package or name}")


failures: list[Exception] = []


@pytest.fixture(autouse=True)
def _no_failures() -> Iterator[None]:
    failures.clear()
    yield
    assert failures == []


def installed(cache: Any) -> Adapter:
    adapter = adapter_of(cache)
    adapter.install(failures.append)
    return adapter


# functools


@functools.lru_cache(maxsize=2)
def double(number: int) -> int:
    return 2 * number


@pytest.fixture
def _cleared() -> None:
    double.cache_clear()


@pytest.mark.usefixtures("_cleared")
def test_lru_cache_counts_its_own_hits() -> None:
    adapter = installed(double)
    for number in (1, 1, 2, 1):
        double(number)
    assert adapter.read() == Reading(hits=2, misses=2, evictions=0, size=2, maxsize=2)


@pytest.mark.usefixtures("_cleared")
def test_a_full_lru_cache_evicts_with_each_miss() -> None:
    adapter = installed(double)
    for numbers in ((1, 2), (3, 4, 5), (5, 5)):
        adapter.read()
        for number in numbers:
            double(number)
    assert adapter.read() == Reading(hits=2, misses=5, evictions=3, size=2, maxsize=2)


def test_a_cache_without_a_limit_has_no_evictions() -> None:
    @functools.cache
    def same(number: int) -> int:
        return number

    adapter = installed(same)
    same(1)
    assert adapter.read() == Reading(hits=0, misses=1, evictions=None, size=1, maxsize=None)


def test_a_function_is_named_after_its_module_and_located_at_its_def() -> None:
    adapter = adapter_of(double)
    assert adapter.name == f"{__name__}.double"
    assert adapter.call_site is not None
    line = Path(__file__).read_text().splitlines()[adapter.call_site.line - 1]
    assert line.startswith("def double(")


def test_a_function_is_not_kept_alive() -> None:
    @functools.lru_cache
    def short_lived() -> None: ...

    adapter = installed(short_lived)
    del short_lived
    assert (adapter.target(), adapter.read()) == (None, None)


# cachetools


def test_a_cachetools_cache_counts_look_ups_and_evictions() -> None:
    cache = library("cachetools").LRUCache(maxsize=2)
    adapter = installed(cache)
    cache["a"] = 1
    assert (cache["a"], cache.get("a"), cache.get("b"), cache.get("b", 7)) == (1, 1, None, 7)
    with pytest.raises(KeyError):
        cache["b"]
    cache["b"], cache["c"] = 2, 3
    assert "a" not in cache
    assert adapter.read() == Reading(hits=2, misses=3, evictions=1, size=2, maxsize=2)


@pytest.mark.parametrize("name", ["FIFOCache", "LFUCache", "LRUCache", "RRCache"])
def test_every_kind_of_cachetools_cache_evicts_one_entry_for_each_above_the_limit(name: str) -> None:
    cache = getattr(library("cachetools"), name)(3)
    adapter = installed(cache)
    for number in range(10):
        cache[number] = number
    assert adapter.read() == Reading(hits=0, misses=0, evictions=7, size=3, maxsize=3)


def test_expired_and_cleared_entries_are_not_evictions() -> None:
    now = [0.0]
    cache = library("cachetools").TTLCache(10, ttl=60, timer=lambda: now[0])
    adapter = installed(cache)
    cache["a"] = 1
    now[0] = 61.0
    assert cache.get("a") is None
    cache["b"] = 2
    cache.clear()
    cache["c"] = 3
    cache.popitem()
    assert adapter.read() == Reading(hits=0, misses=1, evictions=0, size=0, maxsize=10)


def test_a_value_created_by_missing_counts_as_a_miss() -> None:
    class Squares(library("cachetools").LRUCache):  # type: ignore[misc]
        def __missing__(self, key: int) -> int:
            self[key] = key * key
            return key * key

    cache = Squares(4)
    adapter = installed(cache)
    assert [cache[2], cache[2], cache[3]] == [4, 4, 9]
    reading = adapter.read()
    assert reading is not None
    assert (reading.hits, reading.misses) == (1, 2)


def test_a_cached_function_is_counted_at_its_cache() -> None:
    cachetools = library("cachetools")

    @cachetools.cached(cachetools.LRUCache(8), lock=threading.Lock())  # type: ignore[untyped-decorator]
    def triple(number: int) -> int:
        return 3 * number

    adapter = installed(triple)
    assert [triple(1), triple(1), triple(2)] == [3, 3, 6]
    assert adapter.read() == Reading(hits=1, misses=2, evictions=0, size=2, maxsize=8)
    assert adapter.name.endswith(".triple")
    assert adapter.call_site is not None


def test_a_cached_function_with_info_counts_its_own_hits() -> None:
    cachetools = library("cachetools")

    @cachetools.cached({}, info=True)  # type: ignore[untyped-decorator]
    def triple(number: int) -> int:
        return 3 * number

    adapter = installed(triple)
    assert [triple(1), triple(1)] == [3, 3]
    assert adapter.read() == Reading(hits=1, misses=1, evictions=None, size=1, maxsize=None)


def test_a_function_cached_in_a_plain_dict_is_refused_with_the_remedy() -> None:
    cachetools = library("cachetools")

    @cachetools.cached({})  # type: ignore[untyped-decorator]
    def triple(number: int) -> int:
        return 3 * number

    with pytest.raises(SetupError, match="info=True"):
        adapter_of(triple)


def test_a_counted_cache_and_its_copies_appear_to_be_of_the_original_class() -> None:
    kind = library("cachetools").LRUCache
    cache = kind(4)
    cache["a"] = 1
    adapter = installed(cache)
    assert (cache.__class__, repr(cache)) == (kind, "LRUCache({'a': 1}, maxsize=4, currsize=1)")
    for made in (copy.copy(cache), copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert type(made) is kind
        assert dict(made) == {"a": 1}
        made["a"]
    assert adapter.read() == Reading(hits=0, misses=0, evictions=0, size=1, maxsize=4)


def test_a_cache_is_restored_when_its_last_adapter_is_removed() -> None:
    kind = library("cachetools").LRUCache
    cache = kind(4)
    first, second = installed(cache), installed(cache)
    cache.get("a")
    assert first.read() == second.read()
    first.remove()
    cache.get("b")
    reading = second.read()
    assert reading is not None
    assert reading.misses == 2
    second.remove()
    assert type(cache) is kind


# aiocache


async def test_an_aiocache_cache_counts_get_and_multi_get() -> None:
    cache = library("aiocache").SimpleMemoryCache()
    adapter = installed(cache)
    await cache.set("a", 1)
    assert [await cache.get("a"), await cache.get("b"), await cache.get("b", 7), await cache.get("b", default=8)] == [
        *(1, None, 7, 8)
    ]
    assert await cache.multi_get(["a", "b"]) == [1, None]
    assert adapter.read() == Reading(hits=2, misses=4, evictions=None, size=1, maxsize=None)


async def test_an_aiocache_decorator_is_counted_at_its_cache() -> None:
    @library("aiocache").cached(ttl=60)  # type: ignore[untyped-decorator]
    async def triple(number: int) -> int:
        return 3 * number

    adapter = installed(triple)
    assert [await triple(1), await triple(1)] == [3, 3]
    assert adapter.read() == Reading(hits=1, misses=1, evictions=None, size=1, maxsize=None)
    assert adapter.name.endswith(".triple")


# fastapi-cache


def fastapi_cache_module(name: str) -> Any:
    return library(f"fastapi_cache{name}", "fastapi-cache2 jinja2")


async def test_fastapi_cache_is_counted_from_init_with_any_backend() -> None:
    fastapi_cache = fastapi_cache_module("")
    backend = fastapi_cache_module(".backends.inmemory").InMemoryBackend
    cached: Any = fastapi_cache_module(".decorator").cache(expire=60)
    app = FastAPI()

    @app.get("/prices/{product}")
    @cached  # type: ignore[untyped-decorator]
    async def price(product: int) -> int:
        return 100 * product

    fastapi_cache.FastAPICache.reset()
    adapter = installed(fastapi_cache.FastAPICache)
    assert adapter.read() is None
    fastapi_cache.FastAPICache.init(backend())
    adapter.read()
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        for product in (1, 1, 2):
            assert (await client.get(f"/prices/{product}")).json() == 100 * product
    assert adapter.read() == Reading(hits=1, misses=2, evictions=None, size=2, maxsize=None)
    adapter.remove()
    assert type(fastapi_cache.FastAPICache.get_backend()) is backend
    await fastapi_cache.FastAPICache.clear(namespace="")
    backend._store.clear()
    fastapi_cache.FastAPICache.reset()


# redis


def test_a_redis_client_counts_its_own_answers_for_each_key() -> None:
    client = library("fakeredis").FakeRedis()
    adapter = installed(client)
    client.set("a", 1)
    client.hset("h", "a", 1)
    assert [client.get("a"), client.get("b"), client["a"], client.getex("b")] == [b"1", None, b"1", None]
    assert [client.mget(["a", "b"]), client.hget("h", "b"), client.hmget("h", ["a"])] == [[b"1", None], None, [b"1"]]
    assert client.pipeline().get("a").get("b").execute() == [b"1", None]
    assert adapter.read() == Reading(hits=4, misses=4)
    client.close()


async def test_an_asynchronous_redis_client_counts_too() -> None:
    client = library("fakeredis").FakeAsyncRedis()
    adapter = installed(client)
    await client.set("a", 1)
    assert [await client.get("a"), await client.get("b"), await client.mget("a", "b")] == [b"1", None, [b"1", None]]
    async with client.pipeline() as pipeline:
        assert await pipeline.get("a").execute() == [b"1"]
    assert adapter.read() == Reading(hits=2, misses=2)
    await client.aclose()
    await client.connection_pool.disconnect()  # older clients leave this to the garbage collector


def test_a_failing_command_is_neither_hit_nor_miss_and_still_raises() -> None:
    redis = library("redis")
    client = library("fakeredis").FakeRedis()
    adapter = installed(client)
    client.set("a", 1)
    with pytest.raises(redis.ResponseError):
        client.hget("a", "b")
    assert adapter.read() == Reading(hits=0, misses=0)
    client.close()


# anything else


@pytest.mark.parametrize("thing", [None, {}, 7, print, dict, object()])
def test_an_unknown_object_is_refused_with_the_remedy(thing: object) -> None:
    with pytest.raises(SetupError, match="Remedy: pass a function"):
        adapter_of(thing)


async def test_an_answer_of_an_unknown_form_fails_no_request() -> None:
    base: Any = fastapi_cache_module(".backends.inmemory").InMemoryBackend

    class Odd(base):  # type: ignore[misc]
        async def get_with_ttl(self, key: str) -> Any:
            return key

    backend = Odd()
    adapter = installed(backend)
    assert await backend.get_with_ttl("") == ""
    assert [type(failure) for failure in failures] == [IndexError]
    failures.clear()
    assert adapter.read() == Reading(0, 0, size=0)
