"""Redis as the cache, and as no more than that: while it is away, everything is asked for anew and nothing fails."""

import logging
import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from django.core.cache.backends.redis import RedisCache
from redis.exceptions import RedisError

# For so long, in seconds, a Redis that failed is left alone: each try would cost its timeout.
LEFT_ALONE_FOR = 2.0

logger = logging.getLogger(__name__)


def tolerant(otherwise: Callable[[], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`otherwise` makes what a method answers while Redis is away."""

    def decorated(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def answer(self: "TolerantRedisCache", *args: Any, **kwargs: Any) -> Any:
            if time.monotonic() < TolerantRedisCache.away_until:
                return otherwise()
            try:
                return method(self, *args, **kwargs)
            except RedisError as error:
                TolerantRedisCache.away_until = time.monotonic() + LEFT_ALONE_FOR
                logger.warning("Redis does not answer: %s", type(error).__name__)
                return otherwise()

        return answer

    return decorated


class TolerantRedisCache(RedisCache):
    # Of the class: Django makes an instance for each thread.
    away_until = 0.0

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

    @tolerant(lambda: 0)
    def incr(self, *args: Any, **kwargs: Any) -> int:
        return int(super().incr(*args, **kwargs))

    @tolerant(lambda: False)
    def clear(self) -> bool:
        return bool(super().clear())
