"""The two caches that there may be, as fast and as forgiving as ours have to be.

Redis is no more than a cache: while it is away, everything is asked for anew and nothing fails.
"""

import logging
import pickle
import time
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache
from redis.exceptions import RedisError, ResponseError

# For so long, in seconds, a Redis that failed is left alone: each try would cost its timeout.
LEFT_ALONE_FOR = 2.0

# What unpickling raises for what another version of the code has kept.
NOT_OURS = (pickle.UnpicklingError, AttributeError, ImportError, EOFError, IndexError, TypeError, ValueError)
# By server, and for all threads: Django makes a cache for each.
_away_until: dict[str, float] = {}
logger = logging.getLogger(__name__)


class LocalCache(LocMemCache):
    """Django's, but that many are read under one lock, and keys are not checked for what memcached would take."""

    _cache: Any
    _lock: Any
    _has_expired: Any

    def validate_key(self, key: Any) -> None:
        """Any key is one."""

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        names = {key: self.make_key(key, version) for key in keys}
        with self._lock:
            for key, name in names.items():
                if name in self._cache and not self._has_expired(name):
                    found[key] = self._cache[name]
                    self._cache.move_to_end(name, last=False)
        return {key: pickle.loads(pickled) for key, pickled in found.items()}  # noqa: S301  what this process has put


def tolerant(otherwise: Callable[[], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`otherwise` makes what a method answers while Redis is away."""

    def decorated(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def answer(self: "TolerantRedisCache", *args: Any, **kwargs: Any) -> Any:
            server = str(self._servers)
            if time.monotonic() < _away_until.get(server, 0.0):
                return otherwise()
            try:
                return method(self, *args, **kwargs)
            except NOT_OURS as error:
                logger.warning("What Redis holds is not this version's: %s", type(error).__name__)
                return otherwise()
            except RedisError as error:
                _away_until[server] = time.monotonic() + LEFT_ALONE_FOR
                logger.warning("Redis does not answer: %s", type(error).__name__)
                return otherwise()

        return answer

    return decorated


class TolerantRedisCache(RedisCache):
    _servers: Any
    _cache: Any

    def validate_key(self, key: Any) -> None:
        """Any key is one."""

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
        """Nobody else can say that it was there already."""
        return bool(super().add(*args, **kwargs))

    @tolerant(lambda: False)
    def delete(self, *args: Any, **kwargs: Any) -> bool:
        return bool(super().delete(*args, **kwargs))

    @tolerant(lambda: None)
    def run_script(self, script: str, keys: Sequence[str], arguments: Sequence[float]) -> Any:
        """What a Lua script answers; None while Redis is away. `keys` as they are there."""
        client: Any = self._cache.get_client(None, write=True)
        try:
            return client.eval(script, len(keys), *keys, *arguments)
        except ResponseError as error:
            logger.error("Redis does not run our scripts, each process counts for itself: %s", error)
            return None

    @tolerant(lambda: 0)
    def incr(self, *args: Any, **kwargs: Any) -> int:
        return int(super().incr(*args, **kwargs))

    @tolerant(lambda: False)
    def clear(self) -> bool:
        return bool(super().clear())
