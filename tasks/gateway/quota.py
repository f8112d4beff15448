"""How many calls may be sent in a minute: one quota with lanes, so that reading leaves something for writing.

Counted for all processes where Redis is there; else each web worker has its part.
"""

import time
from collections.abc import Mapping

from django.conf import settings

from core import rate_limits
from core.rate_limits import Limit
from tasks.trigger import errors
from tasks.trigger.client import Route

# How much of the quota may be used up when a call of this kind is sent: polls, lookups of single runs, writes.
LANES: Mapping[Route, float] = {"runs": 0.6, "run": 0.8, "schedules": 1.0, "trigger": 1.0}
# How much of it all lookups of callers together, and those of one account, may use: the rest is left to the polls.
LOOKUPS, LOOKUPS_OF_ONE = 0.3, 0.15


def count_call(environment: str, route: Route) -> None:
    """For one call, right before it is sent. Raises NotSent."""
    exceeded = rate_limits.take(part(f"calls:{environment}", LANES[route]), at=time.time())
    if exceeded is not None:
        detail = "the calls that may be sent in a minute are used up"
        raise errors.NotSent(detail, retry_after=exceeded.seconds, reason="quota")


def count_lookup(caller: object) -> None:
    """For one run that is not cached. Raises QuotaExceeded, and NotSent where all accounts look up too many."""
    own, of_all = part(f"lookups:{caller}", LOOKUPS_OF_ONE), part("lookups", LOOKUPS)
    exceeded = rate_limits.take(own, of_all, at=time.time())
    if exceeded is not None:
        detail = f"more than {exceeded.limit.maximum} runs were looked up within a minute"
        kind = errors.QuotaExceeded if exceeded.limit == own else errors.NotSent
        raise kind(detail, retry_after=exceeded.seconds, reason="lookups")


def part(name: str, fraction: float) -> Limit:
    """Of the quota, and of the part of a worker that counts for itself."""
    calls = settings.TRIGGER_CALLS_PER_MINUTE
    return Limit(name, *(max(1, int(n * fraction)) for n in (calls, calls // settings.WEB_CONCURRENCY)))
