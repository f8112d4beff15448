"""Manners towards Trigger.dev: whether a call may be sent at all, and what is learnt from how it ends.

After a 429 nothing is sent until its reset, by any process where Redis is there. After repeated failures nothing for a
while, and then one call that nobody waits for. Never more than the budget, and of that no payer more than its share.
"""

import logging
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

import prometheus_client
from django.conf import settings
from django.core.cache import cache

from accounts import counters
from accounts.counters import Limit, Spent
from tasks.breaker import Breaker
from tasks.payers import Payer, payer
from tasks.trigger import errors
from tasks.trigger.answers import LONGEST_RETRY_AFTER

# Of the budget: the others must find something left.
SHARE = 0.5
# Runs that one payer may look for in vain in a minute. Those calls come out of no budget, but all together they are at
# most this part of it.
LOOKUPS_A_MINUTE = 100
LOOKUPS_PART = 0.25
# A call that had less time than this, in seconds, says nothing about Trigger.dev when the time is up.
FAIR_PATIENCE = 1.0
ANY = "any"
OUTCOMES: dict[type[errors.TriggerError], str] = {
    errors.NotFound: "not_found",
    errors.Refused: "refused",
    errors.TooManyRequests: "rate_limited",
    errors.NotReached: "not_reached",
    errors.TimedOut: "timed_out",
    errors.Failed: "failed",
    errors.BrokenAnswer: "broken",
}
UNANSWERED = (errors.NotReached, errors.TimedOut)
# It may be one thing that Trigger.dev cannot show, and not all things of a kind: a trial tells.
ANSWERED_BADLY = (errors.Failed, errors.BrokenAnswer)
CALLS = prometheus_client.Counter(
    "recoup_trigger_calls", "Calls to Trigger.dev, and such as were not sent, by how they ended.", ["route", "outcome"]
)
RESTING = prometheus_client.Gauge(
    "recoup_trigger_resting", "Workers that leave Trigger.dev alone after failures.", multiprocess_mode="livesum"
)

logger = logging.getLogger(__name__)


# The route that the present call is a trial of.
_trial_of: ContextVar[str] = ContextVar("trial_of", default="")


class Manners:
    """The gate of the process's one client. `start_trial`: has one call of a route sent, within `trial()`."""

    def __init__(self, environment: str, *, start_trial: Callable[[str], None]) -> None:
        self._environment, self._start_trial = environment, start_trial
        self._lock = threading.Lock()
        self._breakers: dict[str, Breaker] = defaultdict(Breaker)
        self._stopped_until = 0.0
        self._summary = Summary()

    def __call__(self, route: str, *, patience: float) -> AbstractContextManager[object]:
        return self._passed(route, patience=patience)

    @contextmanager
    def _passed(self, route: str, *, patience: float) -> Iterator[None]:
        try:
            self._refuse_while_resting(route)
            self._refuse_until_reset()
            self._pay()
        except errors.NotAsked as error:
            self._count(route, error.reason)
            raise
        try:
            yield
        except errors.TriggerError as error:
            self._count(route, OUTCOMES[type(error)])
            self._learn(route, error, patience=patience)
            raise
        self._count(route, "answered")
        self._learn(route, None, patience=patience)

    @contextmanager
    def trial(self, route: str) -> Iterator[None]:
        """Within it a call is the one that tries again, for this route."""
        token = _trial_of.set(route)
        try:
            yield
        finally:
            _trial_of.reset(token)

    # --- Before a call -----------------------------------------------------------------------------------------------

    def _refuse_while_resting(self, route: str) -> None:
        if _trial_of.get():
            return
        now = time.time()
        with self._lock:
            resting = next((one for one in (self._breakers[ANY], self._breakers[route]) if one.is_open), None)
            if resting is None:
                return
            begins_trial = resting.begin_trial(now=now)
            left = resting.seconds_left(now=now)
        if begins_trial:
            self._start_trial(route)
        raise errors.Resting(retry_after=max(left, 0.5), reason="resting")

    def _refuse_until_reset(self) -> None:
        left = self.seconds_until_reset()
        if left:
            raise errors.NotAsked("it asked us to wait", retry_after=left, reason="until_reset")

    def _pay(self) -> None:
        who = payer.get()
        limits = [self._all_lookups] if who is not None and who.is_lookup else self._limits_of(who)
        self._refuse_when_spent(counters.take(*limits, at=time.time()))

    def refuse_lookup(self, who: Payer) -> None:
        """Raises ShareSpent or NotAsked before a lookup, since nobody knows yet what it will cost."""
        purse = [self._vain_lookups_of(who), self._all_lookups, *self._limits_of(who)]
        self._refuse_when_spent(counters.spent(*purse, at=time.time()))

    def note_found(self, who: Payer, *, calls: int) -> None:
        """The calls of a lookup that was not in vain come out of the budget like everything else."""
        now = time.time()
        if calls:
            counters.add(self._all_lookups, -calls, at=now)
            for limit in self._limits_of(who):
                counters.add(limit, calls, at=now)

    def note_vain(self, who: Payer) -> None:
        counters.add(self._vain_lookups_of(who), 1, at=time.time())

    def _limits_of(self, who: Payer | None) -> list[Limit]:
        most = settings.TRIGGER_CALLS_A_MINUTE
        alone = max(1, most // settings.WEB_CONCURRENCY)
        budget = Limit(f"budget:{self._environment}", most, alone)
        if who is None:
            return [budget]
        share = Limit(f"share:{self._environment}:{who.name}", max(1, int(most * SHARE)), max(1, int(alone * SHARE)))
        if not who.is_poll:
            return [share, budget]
        polls = Limit(f"polls:{self._environment}:{who.name}", max(1, share.most // 2), max(1, (share.alone or 2) // 2))
        return [polls, share, budget]

    @property
    def _all_lookups(self) -> Limit:
        most = max(1, int(settings.TRIGGER_CALLS_A_MINUTE * LOOKUPS_PART))
        return Limit(f"lookups:{self._environment}", most, max(1, most // settings.WEB_CONCURRENCY))

    def _vain_lookups_of(self, who: Payer) -> Limit:
        # Of all lookups the others must find something left, however many workers share them.
        most, alone = (
            min(LOOKUPS_A_MINUTE, max(1, of * 4 // 5)) for of in (self._all_lookups.most, self._alone_lookups)
        )
        return Limit(f"vain:{self._environment}:{who.name}", most, alone)

    @property
    def _alone_lookups(self) -> int:
        return self._all_lookups.alone or self._all_lookups.most

    def _refuse_when_spent(self, spent: Spent | None) -> None:
        if spent is None:
            return
        name, _, _ = spent.limit.name.partition(":")
        if name == "share":
            detail = "this minute's share of its calls is spent"
            raise errors.ShareSpent(detail, retry_after=spent.seconds, reason=name)
        if name == "vain":
            detail = f"more than {LOOKUPS_A_MINUTE} runs were looked for in vain within a minute"
            raise errors.ShareSpent(detail, retry_after=spent.seconds, reason=name)
        detail = "all that it may be asked within a minute is spent"
        raise errors.NotAsked(detail, retry_after=spent.seconds, reason=name)

    # --- After a call ------------------------------------------------------------------------------------------------

    def _learn(self, route: str, error: errors.TriggerError | None, *, patience: float) -> None:
        if isinstance(error, errors.TooManyRequests):
            self._stop(error.retry_after)
        if isinstance(error, errors.TimedOut) and patience < min(FAIR_PATIENCE, settings.REQUEST_DEADLINE / 2):
            return
        with self._lock:
            tried = _trial_of.get()
            before = self._has_open()
            is_suspect = self._note(error, {tried or route, route}, is_trial=bool(tried))
            after = self._has_open()
            RESTING.set(int(after))
        if after and not before:
            logger.warning("Trigger.dev has failed repeatedly (%s). It is left alone, and tried by one call", error)
        if before and not after:
            logger.warning("Trigger.dev answers again")
        if is_suspect:
            self._start_trial(route)

    def _note(self, error: errors.TriggerError | None, routes: set[str], *, is_trial: bool) -> bool:
        """Whether a trial should tell what to think of this route."""
        now, is_suspect = time.time(), False
        for name in (*routes, ANY):
            breaker = self._breakers[name]
            kinds = UNANSWERED if name == ANY else (*UNANSWERED, *ANSWERED_BADLY)
            if not isinstance(error, kinds):
                breaker.succeed()
                continue
            is_enough = breaker.fail(now=now)
            is_proven = is_trial and (name != ANY or breaker.is_open)
            if is_proven or (is_enough and isinstance(error, UNANSWERED)):
                breaker.open(now=now)
            elif is_enough:
                is_suspect |= breaker.begin_trial(now=now)
        return is_suspect

    def _has_open(self) -> bool:
        return any(one.is_open for one in self._breakers.values())

    def _stop(self, seconds: float) -> None:
        seconds = max(seconds, self.seconds_until_reset())
        self._stopped_until = time.time() + seconds
        if settings.CACHE_IS_SHARED:
            # Django's Redis takes whole seconds; what is kept says itself when it ends.
            cache.set(self._stop_name, self._stopped_until, math.ceil(seconds) + 1)
        logger.warning("Trigger.dev asks us to wait: nothing is sent for %.1f seconds", seconds)

    @property
    def _stop_name(self) -> str:
        return f"stopped:{self._environment}"

    def seconds_until_reset(self) -> float:
        """0.0 when Trigger.dev has not asked us to wait."""
        now = time.time()
        shared = cache.get(self._stop_name, 0.0) if settings.CACHE_IS_SHARED else 0.0
        left = max(self._stopped_until, shared or 0.0) - now
        # What is further ahead than any reset was told by a clock that has been set back since.
        return left if 0 < left <= LONGEST_RETRY_AFTER else 0.0

    def is_resting(self) -> bool:
        with self._lock:
            return self._has_open()

    def leaves_alone(self) -> bool:
        """Whether a call would be refused, or some would."""
        return self.is_resting() or self.seconds_until_reset() > 0

    def _count(self, route: str, outcome: str) -> None:
        CALLS.labels(route, outcome).inc()
        self._summary.count(outcome, at=time.time())


class Summary:
    """A line in the log for each minute in which Trigger.dev was asked, or would have been."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._minute = 0
        self._counts: Counter[str] = Counter()

    def count(self, outcome: str, *, at: float) -> None:
        minute = int(at // 60)
        with self._lock:
            former = self._counts if minute != self._minute else Counter[str]()
            if former or not self._counts:
                self._minute, self._counts = minute, Counter()
            self._counts[outcome] += 1
        if former:
            parts = ", ".join(f"{count} {name}" for name, count in former.most_common())
            logger.info("Trigger.dev was asked within a minute: %s", parts)
