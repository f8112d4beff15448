"""Rate limits over a sliding minute: how often something happened, and whether it may happen once more.

Counted in Redis where there is one, so that all processes count together. Without Redis, and while it is away, each
process counts for itself. The previous minute counts in proportion to how much of it is less than sixty seconds ago.

django-ratelimit and limits were looked at: neither counts for several limits all-or-nothing.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.conf import settings
from django.core.cache import cache

MINUTE = 60.0
# A client can invent names, so the least recently counted ones are dropped above this number.
MAX_NAMES = 50_000

# KEYS: the current and the previous minute of each counter. ARGV: the weight of the previous minute, and the maximum of
# each counter. Adds one to every counter and returns 0; or changes nothing, and returns the number of the first counter
# that is used up, with its two counts.
TAKE = """
for i = 1, #KEYS, 2 do
  local present = tonumber(redis.call('GET', KEYS[i]) or '0')
  local former = tonumber(redis.call('GET', KEYS[i + 1]) or '0')
  if present + former * tonumber(ARGV[1]) + 1 > tonumber(ARGV[(i + 3) / 2]) then
    return {(i + 1) / 2, present, former}
  end
end
for i = 1, #KEYS, 2 do
  redis.call('INCR', KEYS[i])
  redis.call('EXPIRE', KEYS[i], 120)
end
return {0, 0, 0}
"""


@dataclass(frozen=True)
class Limit:
    """At most `maximum` per minute. `alone`: the share of a process that counts for itself, where it is smaller."""

    name: str
    maximum: int
    alone: int | None = None


class Exceeded(NamedTuple):
    """The limit that is used up, and in how many seconds one more fits."""

    limit: Limit
    seconds: float


def take(*limits: Limit, at: float) -> Exceeded | None:
    """Counts one more for every limit, or for none of them if one is used up. `at`: epoch seconds."""
    number, passed = divmod(at, MINUTE)
    maximums = [one.maximum for one in limits]
    counted = _run_shared(TAKE, _keys(limits, int(number)), [1 - passed / MINUTE, *maximums])
    if counted is None:
        return _local.take(limits, at=at)
    which, present, former = counted
    if which:
        limit = limits[which - 1]
        return Exceeded(limit, seconds_until_free(limit.maximum, present, former, passed=passed))
    # Also locally, so that a process does not start from zero when Redis goes away.
    for limit in limits:
        _local.add(limit.name, at=at)
    return None


def clear() -> None:
    """Forgets what this process has counted for itself."""
    _local.clear()


def seconds_until_free(maximum: int, present: int, former: int, *, passed: float) -> float:
    """When one more fits. `passed`: the seconds of the current minute that have passed."""
    if present + 1 <= maximum:
        # Once the weight of the previous minute is small enough.
        return max(0.0, MINUTE * (1 - (maximum - 1 - present) / former) - passed) if former else 0.0
    weight = (maximum - 1) / present if maximum >= 1 else 0.0
    return MINUTE - passed + MINUTE * (1 - weight)


def _run_shared(script: str, names: list[str], arguments: list[float]) -> Any:
    """The result of the script; None without Redis."""
    if not settings.CACHE_IS_SHARED:
        return None
    shared: Any = cache
    return shared.run_script(script, [cache.make_key(name) for name in names], arguments)


def _keys(limits: Sequence[Limit], number: int) -> list[str]:
    return [f"count:{one.name}:{minute}" for one in limits for minute in (number, number - 1)]


class LocalCounters:
    """The counts of one process: by name the number of a minute, its count, and the count of the minute before."""

    def __init__(self, max_names: int = MAX_NAMES) -> None:
        self._lock, self._max_names = threading.Lock(), max_names
        self._minutes: dict[str, tuple[int, int, int]] = {}

    def take(self, limits: Sequence[Limit], *, at: float) -> Exceeded | None:
        number, passed = int(at // MINUTE), at % MINUTE
        with self._lock:
            for limit in limits:
                present, former = self._counts(limit.name, number)
                maximum = limit.maximum if limit.alone is None else limit.alone
                if present + former * (1 - passed / MINUTE) + 1 > maximum:
                    return Exceeded(limit, seconds_until_free(maximum, present, former, passed=passed))
            for limit in limits:
                self._add(limit.name, number)
        return None

    def add(self, name: str, *, at: float) -> None:
        with self._lock:
            self._add(name, int(at // MINUTE))

    def clear(self) -> None:
        with self._lock:
            self._minutes.clear()

    def _counts(self, name: str, number: int) -> tuple[int, int]:
        minute, present, former = self._minutes.get(name, (number, 0, 0))
        return {number: (present, former), number - 1: (0, present)}.get(minute, (0, 0))

    def _add(self, name: str, number: int) -> None:
        present, former = self._counts(name, number)
        self._minutes.pop(name, None)
        self._minutes[name] = (number, present + 1, former)
        if len(self._minutes) > self._max_names:
            del self._minutes[next(iter(self._minutes))]


_local = LocalCounters()
