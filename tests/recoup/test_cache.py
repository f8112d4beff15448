"""The cache of one process: bounded in bytes; and what it does for Redis while that is away."""

from typing import Any

import pytest
from django.core.cache import caches
from pytest_django import Settings

from core.cache import LocalCache, _away_until
from tests.conftest import use_redis


class SmallCache(LocalCache):
    MAX_BYTES = 10_000


@pytest.fixture
def cache() -> SmallCache:
    found = SmallCache("small", {"OPTIONS": {"MAX_ENTRIES": 100}})
    found.clear()
    return found


def test_the_least_recently_used_entries_make_room_for_new_bytes(cache: SmallCache) -> None:
    for name in "abc":
        cache.set(name, name * 3_000)
    assert cache.get("a") == "a" * 3_000
    cache.set("d", "d" * 3_000)
    assert sorted(cache.get_many("abcd")) == ["a", "c", "d"]
    assert 9_000 < cache.size <= 10_000


def test_an_entry_that_is_replaced_deleted_or_too_large_leaves_no_bytes(cache: SmallCache) -> None:
    cache.set("a", "a" * 3_000)
    cache.set("a", "b")
    small = cache.size
    assert small < 100
    cache.set("b", "b" * 20_000)
    assert (cache.get("b"), cache.size) == (None, small)
    cache.delete("a")
    assert cache.size == 0


def test_the_number_of_entries_is_bounded_too(cache: SmallCache) -> None:
    for number in range(500):
        cache.set(str(number), number)
    assert cache.get("499") == 499
    assert cache.size < 100 * 40


def test_a_process_uses_its_own_memory_while_redis_is_away(settings: Settings, redis: None) -> None:
    answering = settings.CACHES["default"]["LOCATION"]
    shared = caches["default"]
    shared.set("a", 1)
    use_redis(settings, "redis://127.0.0.1:1/0")
    away = caches["default"]
    away.set("a", 2)
    assert (away.get("a"), away.get_many(["a", "b"]), away.add("a", 3)) == (2, {"a": 2}, False)
    assert away.delete("a")
    assert away.get("a") is None
    use_redis(settings, answering)
    assert caches["default"].get("a") == 1


def test_only_a_write_shows_that_redis_is_back(redis: None) -> None:
    """A full Redis and a replica still read, and what they read may be old."""
    shared: Any = caches["default"]
    shared.set("a", "old")
    shared.went_away(ConnectionError())
    shared.set("a", "new")
    assert shared.get("a") == "new"
    shared.went_away(ConnectionError())
    _away_until[shared.server] = 0.0  # the pause has ended
    assert (shared.get("a"), shared.get_many(["a"])) == ("new", {"a": "new"})
    shared.set("b", 1)
    assert (shared.get("a"), shared.get("b"), shared.own.size) == ("old", 1, 0)
