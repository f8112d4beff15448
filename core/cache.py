"""The two cache backends: local memory, and Redis. While Redis is away, each process uses its own memory."""

import logging
import pickle
import time
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, ClassVar

from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache
from redis.exceptions import RedisError

# Seconds without a new try after Redis has failed: each try would cost its timeout.
PAUSE_AFTER_FAILURE = 2.0

# What unpickling raises for a value that another version of the code has stored.
UNREADABLE = (pickle.UnpicklingError, AttributeError, ImportError, EOFError, IndexError, TypeError, ValueError)
# By server, for all threads: Django creates a cache object for each thread. Until when no write is tried.
_away_until: dict[str, float] = {}
logger = logging.getLogger(__name__)


class LocalCache(LocMemCache):
    """Django's, but bounded in bytes too. `get_many` takes the lock once; keys are not validated for memcached."""

    # Of one process, for the keys and the pickled values.
    MAX_BYTES = 32 * 1024 * 1024
    _sizes: ClassVar[dict[str, int]] = {}
    _cache: Any
    _expire_info: Any
    _lock: Any
    _has_expired: Any

    def __init__(self, name: str, params: dict[str, Any]) -> None:
        super().__init__(name, params)
        self._name = name

    def validate_key(self, key: Any) -> None:
        """Any key is valid."""

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        names = {key: self.make_key(key, version) for key in keys}
        with self._lock:
            for key, name in names.items():
                if name in self._cache and not self._has_expired(name):
                    found[key] = self._cache[name]
                    self._cache.move_to_end(name, last=False)
        return {key: pickle.loads(pickled) for key, pickled in found.items()}  # noqa: S301  this process pickled it

    def clear(self) -> None:
        with self._lock:
            self._cache.clear()
            self._expire_info.clear()
            self._sizes[self._name] = 0

    @property
    def size(self) -> int:
        return self._sizes.get(self._name, 0)

    # Django calls these three with the lock held. The least recently used entry is the last one.

    def _set(self, key: str, value: bytes, timeout: Any = None) -> None:
        self._delete(key)
        room = self.MAX_BYTES - len(key) - len(value)
        if room < 0:
            return
        while self._cache and self.size > room:
            self._delete(next(reversed(self._cache)))
        super()._set(key, value, timeout)  # type: ignore[misc]
        self._sizes[self._name] = self.size + len(key) + len(value)

    def _delete(self, key: str) -> bool:
        if key not in self._cache:
            return False
        self._sizes[self._name] = self.size - len(key) - len(self._cache[key])
        del self._cache[key], self._expire_info[key]
        return True

    def _cull(self) -> None:
        for _ in range(max(1, len(self._cache) // self._cull_frequency)):
            self._delete(next(reversed(self._cache)))


def with_own_memory(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that is done in the process's own memory while Redis is away, instead of raising.

    Only a write shows that Redis is back: a full one, and a replica, still read.
    """
    is_write = method.__name__ in ("set", "add", "delete", "clear")

    @wraps(method)
    def wrapper(self: "TolerantRedisCache", *args: Any, **kwargs: Any) -> Any:
        instead = getattr(self.own, method.__name__)
        if self.is_away(for_write=is_write):
            return instead(*args, **kwargs)
        try:
            result = method(self, *args, **kwargs)
        except UNREADABLE as error:
            logger.warning("A value in Redis was stored by another version: %s", type(error).__name__)
            return instead(*args, **kwargs)
        except RedisError as error:
            self.went_away(error)
            return instead(*args, **kwargs)
        if is_write:
            self.came_back()
        return result

    return wrapper


class TolerantRedisCache(RedisCache):
    _servers: Any
    _cache: Any

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self.own = LocalCache(f"instead of {server}", {**params, "OPTIONS": {"MAX_ENTRIES": 20_000}})

    def validate_key(self, key: Any) -> None:
        """Any key is valid."""

    @property
    def server(self) -> str:
        return str(self._servers)

    def is_away(self, *, for_write: bool) -> bool:
        """After the pause a write is tried again, and what is read is still the process's own."""
        until = _away_until.get(self.server)
        return until is not None and (not for_write or time.monotonic() < until)

    def went_away(self, error: Exception) -> None:
        _away_until[self.server] = time.monotonic() + PAUSE_AFTER_FAILURE
        logger.warning("Redis does not answer, so this process uses its own memory: %s", type(error).__name__)

    def came_back(self) -> None:
        if _away_until.pop(self.server, None) is not None:
            # It is no longer told of changes.
            self.own.clear()

    def answers(self) -> bool:
        """Whether Redis reads and writes, as far as is known: it is asked unless it has just failed."""
        self.set("answers", True, 60)
        return bool(self.get("answers")) and not self.is_away(for_write=False)

    @with_own_memory
    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return super().get(key, default, version)

    @with_own_memory
    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        return super().get_many(keys, version)

    @with_own_memory
    def set(self, *args: Any, **kwargs: Any) -> None:
        super().set(*args, **kwargs)

    @with_own_memory
    def add(self, *args: Any, **kwargs: Any) -> bool:
        return bool(super().add(*args, **kwargs))

    @with_own_memory
    def delete(self, *args: Any, **kwargs: Any) -> bool:
        return bool(super().delete(*args, **kwargs))

    @with_own_memory
    def clear(self) -> bool:
        return bool(super().clear())

    def run_script(self, script: str, keys: Sequence[str], arguments: Sequence[float]) -> Any:
        """The result of a Lua script that writes; None while Redis is away or cannot run it. `keys` are Redis keys."""
        if self.is_away(for_write=True):
            return None
        client: Any = self._cache.get_client(None, write=True)
        try:
            result = client.eval(script, len(keys), *keys, *arguments)
        except RedisError as error:
            self.went_away(error)
            return None
        self.came_back()
        return result
