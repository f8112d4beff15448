"""How often something happened within a minute, and whether it may happen once more.

Counted in Redis where there is one, so that all processes count together; else, and while Redis is away, each process
counts for itself. The minute slides: the former minute counts for the part of it that is still within sixty seconds.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.conf import settings
from django.core.cache import cache

MINUTE = 60.0
# A stranger can make up many names: of more than so many, those are dropped that were not counted for longest.
MOST_NAMES = 50_000

# KEYS: the present and the former minute of each counter. ARGV: how much is taken, how much a former minute counts, and
# each counter's most. Takes it of each and says 0, or takes none and says which one has none left, and how that stands.
TAKE = """
for i = 1, #KEYS, 2 do
  local present = tonumber(redis.call('GET', KEYS[i]) or '0')
  local former = tonumber(redis.call('GET', KEYS[i + 1]) or '0')
  if present + former * tonumber(ARGV[2]) + 1 > tonumber(ARGV[(i + 5) / 2]) then
    return {(i + 1) / 2, present, former}
  end
end
if ARGV[1] ~= '0' then
  for i = 1, #KEYS, 2 do
    redis.call('INCRBY', KEYS[i], ARGV[1])
    redis.call('EXPIRE', KEYS[i], 120)
  end
end
return {0, 0, 0}
"""
ADD = """
for i, key in ipairs(KEYS) do
  local present = tonumber(redis.call('GET', key) or '0')
  redis.call('SET', key, math.max(0, present + tonumber(ARGV[i])), 'EX', 120)
end
return 1
"""


@dataclass(frozen=True)
class Limit:
    """At most `most` a minute; `alone`: the part of a process that counts for itself, where that is another one."""

    name: str
    most: int
    alone: int | None = None


class Spent(NamedTuple):
    """Which limit has nothing left, and in how many seconds it has again."""

    limit: Limit
    seconds: float


def take(*limits: Limit, at: float) -> Spent | None:
    """Counts one more for each limit; where one has nothing left, for none. `at`: epoch seconds."""
    return _take(limits, 1, at=at)


def spent(*limits: Limit, at: float) -> Spent | None:
    """What `take` would say, and nothing is counted."""
    return _take(limits, 0, at=at)


def _take(limits: Sequence[Limit], amount: int, *, at: float) -> Spent | None:
    number, passed = divmod(at, MINUTE)
    mosts = [one.most for one in limits]
    counted = _shared(TAKE, _keys(limits, int(number)), [amount, 1 - passed / MINUTE, *mosts])
    if counted is None:
        return _local.take(limits, amount, at=at)
    which, present, former = counted
    if which:
        limit = limits[which - 1]
        return Spent(limit, seconds_until_free(limit.most, present, former, passed=passed))
    # Here too, so that a Redis that goes away does not leave a process that has asked for nothing.
    for limit in limits:
        _local.add(limit.name, amount, at=at)
    return None


def add(amounts: Mapping[Limit, int], *, at: float) -> None:
    """Counts without asking; a negative amount takes back what was taken."""
    _shared(ADD, _keys([*amounts], int(at // MINUTE))[::2], [*amounts.values()])
    for limit, amount in amounts.items():
        _local.add(limit.name, amount, at=at)


def clear() -> None:
    """Forgets what this process has counted for itself."""
    _local.clear()


def seconds_until_free(most: int, present: int, former: int, *, passed: float) -> float:
    """When one more fits. `passed`: seconds of the present minute that have passed."""
    if present + 1 <= most:
        # Once little enough of the former minute counts.
        return max(0.0, MINUTE * (1 - (most - 1 - present) / former) - passed) if former else 0.0
    counting = (most - 1) / present if most >= 1 else 0.0
    return MINUTE - passed + MINUTE * (1 - counting)


def _shared(script: str, names: list[str], arguments: list[float]) -> Any:
    """What the script answers; None where no Redis does."""
    if not settings.CACHE_IS_SHARED:
        return None
    shared: Any = cache
    return shared.run_script(script, [cache.make_key(name) for name in names], arguments)


def _keys(limits: Sequence[Limit], number: int) -> list[str]:
    return [f"count:{one.name}:{minute}" for one in limits for minute in (number, number - 1)]


class LocalCounters:
    """What one process counts: by name the number of a minute, its count, and the count of the minute before."""

    def __init__(self, most_names: int = MOST_NAMES) -> None:
        self._lock, self._most_names = threading.Lock(), most_names
        self._minutes: dict[str, tuple[int, int, int]] = {}

    def take(self, limits: Sequence[Limit], amount: int = 1, *, at: float) -> Spent | None:
        number, passed = int(at // MINUTE), at % MINUTE
        with self._lock:
            for limit in limits:
                present, former = self._counts(limit.name, number)
                most = limit.most if limit.alone is None else limit.alone
                if present + former * (1 - passed / MINUTE) + 1 > most:
                    return Spent(limit, seconds_until_free(most, present, former, passed=passed))
            for limit in limits if amount else ():
                self._add(limit.name, amount, number)
        return None

    def add(self, name: str, amount: int, *, at: float) -> None:
        with self._lock:
            self._add(name, amount, int(at // MINUTE))

    def clear(self) -> None:
        with self._lock:
            self._minutes.clear()

    def _counts(self, name: str, number: int) -> tuple[int, int]:
        minute, present, former = self._minutes.get(name, (number, 0, 0))
        return {number: (present, former), number - 1: (0, present)}.get(minute, (0, 0))

    def _add(self, name: str, amount: int, number: int) -> None:
        present, former = self._counts(name, number)
        self._minutes.pop(name, None)
        self._minutes[name] = (number, max(0, present + amount), former)
        if len(self._minutes) > self._most_names:
            del self._minutes[next(iter(self._minutes))]


_local = LocalCounters()
