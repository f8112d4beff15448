"""The two cache backends: local memory, and Redis. While Redis is away every read is a miss, and nothing fails."""

import logging
import pickle
import time
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache
from redis.exceptions import RedisError, ResponseError

# Seconds without a new try after Redis has failed: each try would cost its timeout.
PAUSE_AFTER_FAILURE = 2.0

# What unpickling raises for a value that another version of the code has stored.
UNREADABLE = (pickle.UnpicklingError, AttributeError, ImportError, EOFError, IndexError, TypeError, ValueError)
# By server, for all threads: Django creates a cache object for each thread.
_away_until: dict[str, float] = {}
logger = logging.getLogger(__name__)


class LocalCache(LocMemCache):
    """Django's, but `get_many` takes the lock once, and keys are not validated for memcached."""

    _cache: Any
    _lock: Any
    _has_expired: Any

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


def tolerant(default: Callable[[], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A method that returns `default()` while Redis is away, instead of raising."""

    def decorated(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def wrapper(self: "TolerantRedisCache", *args: Any, **kwargs: Any) -> Any:
            server = str(self._servers)
            if time.monotonic() < _away_until.get(server, 0.0):
                return default()
            try:
                return method(self, *args, **kwargs)
            except UNREADABLE as error:
                logger.warning("A value in Redis was stored by another version: %s", type(error).__name__)
                return default()
            except RedisError as error:
                _away_until[server] = time.monotonic() + PAUSE_AFTER_FAILURE
                logger.warning("Redis does not answer: %s", type(error).__name__)
                return default()

        return wrapper

    return decorated


class TolerantRedisCache(RedisCache):
    _servers: Any
    _cache: Any

    def validate_key(self, key: Any) -> None:
        """Any key is valid."""

    @tolerant(lambda: None)
    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return super().get(key, default, version)

    @tolerant(dict)
    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        return super().get_many(keys, version)

    @tolerant(lambda: None)
    def set(self, *args: Any, **kwargs: Any) -> None:
        super().set(*args, **kwargs)

    @tolerant(lambda: True)
    def add(self, *args: Any, **kwargs: Any) -> bool:
        """True while Redis is away: no other process can have added it."""
        return bool(super().add(*args, **kwargs))

    @tolerant(lambda: False)
    def delete(self, *args: Any, **kwargs: Any) -> bool:
        return bool(super().delete(*args, **kwargs))

    @tolerant(lambda: None)
    def run_script(self, script: str, keys: Sequence[str], arguments: Sequence[float]) -> Any:
        """The result of a Lua script; None while Redis is away. `keys` are Redis keys, not cache keys."""
        client: Any = self._cache.get_client(None, write=True)
        try:
            return client.eval(script, len(keys), *keys, *arguments)
        except ResponseError as error:
            logger.error("Redis does not run our scripts, so each process counts for itself: %s", error)
            return None

    @tolerant(lambda: 0)
    def incr(self, *args: Any, **kwargs: Any) -> int:
        return int(super().incr(*args, **kwargs))

    @tolerant(lambda: False)
    def clear(self) -> bool:
        return bool(super().clear())
