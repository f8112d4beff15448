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
# How much of it one account may use for looking up single runs, so that a few accounts cannot stop the polls.
LOOKUPS_OF_ONE = 0.15


def count_call(environment: str, route: Route) -> None:
    """For one call, right before it is sent. Raises NotSent."""
    maximums = [
        max(1, int(calls * LANES[route]))
        for calls in (
            settings.TRIGGER_CALLS_PER_MINUTE,
            settings.TRIGGER_CALLS_PER_MINUTE // settings.WEB_CONCURRENCY,
        )
    ]
    exceeded = rate_limits.take(Limit(f"calls:{environment}", *maximums), at=time.time())
    if exceeded is not None:
        detail = "the calls that may be sent in a minute are used up"
        raise errors.NotSent(detail, retry_after=exceeded.seconds, reason="quota")


def count_lookup(caller: object) -> None:
    """For one run that is not cached. Raises QuotaExceeded."""
    maximum = max(1, int(settings.TRIGGER_CALLS_PER_MINUTE * LOOKUPS_OF_ONE))
    exceeded = rate_limits.take(Limit(f"lookups:{caller}", maximum), at=time.time())
    if exceeded is not None:
        detail = f"more than {maximum} runs were looked up within a minute"
        raise errors.QuotaExceeded(detail, retry_after=exceeded.seconds, reason="lookups")
