"""Manners towards Trigger.dev: whether a call may be sent at all, and what is learnt from how it ends.

After a 429 nothing is sent until its reset, by any process where Redis is there. After repeated failures nothing for a
while, and then one call that nobody waits for. Never more than the budget, and of that no payer more than its share.
"""

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import prometheus_client
from django.conf import settings
from django.core.cache import cache

from accounts import counters
from accounts.counters import Limit, Spent
from tasks.breaker import Breaker
from tasks.trigger import errors
from tasks.trigger.answers import LONGEST_RETRY_AFTER

# Of the budget: the others must find something left.
SHARE = 0.5
# Runs that a caller may look for in vain in a minute, each of which costs a call that comes out of no budget.
LOOKUPS_A_MINUTE = 60
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
FAILURES = (*UNANSWERED, errors.Failed, errors.BrokenAnswer)
CALLS = prometheus_client.Counter(
    "recoup_trigger_calls", "Calls to Trigger.dev, and such as were not sent, by how they ended.", ["route", "outcome"]
)
RESTING = prometheus_client.Gauge(
    "recoup_trigger_resting", "Workers that leave Trigger.dev alone after failures.", multiprocess_mode="livesum"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Payer:
    """Whose share a call comes out of. A lookup, of a run that nobody has seen, is paid from a purse of its own."""

    name: str
    is_lookup: bool = False


payer: ContextVar[Payer | None] = ContextVar("payer", default=None)
_is_trial: ContextVar[bool] = ContextVar("is_trial", default=False)


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
    def trial(self) -> Iterator[None]:
        """Within it a call is the one that tries again."""
        token = _is_trial.set(True)
        try:
            yield
        finally:
            _is_trial.reset(token)

    # --- Before a call -----------------------------------------------------------------------------------------------

    def _refuse_while_resting(self, route: str) -> None:
        if _is_trial.get():
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
        now, who = time.time(), payer.get()
        spent = counters.take(*self._limits(who), at=now)
        if spent is not None:
            raise self._refusal(spent, who)

    def _limits(self, who: Payer | None) -> list[Limit]:
        if who is not None and who.is_lookup:
            return [Limit(f"lookups:{who.name}", LOOKUPS_A_MINUTE)]
        most = settings.TRIGGER_CALLS_A_MINUTE
        alone = max(1, most // settings.WEB_CONCURRENCY)
        budget = Limit(f"budget:{self._environment}", most, alone)
        if who is None:
            return [budget]
        share = Limit(f"share:{self._environment}:{who.name}", max(1, int(most * SHARE)), max(1, int(alone * SHARE)))
        return [share, budget]

    def _refusal(self, spent: Spent, who: Payer | None) -> errors.NotAsked:
        if spent.limit.name.startswith("budget:"):
            return errors.NotAsked("the budget of this minute is spent", retry_after=spent.seconds, reason="budget")
        if who is not None and who.is_lookup:
            detail = f"more than {LOOKUPS_A_MINUTE} runs were looked for in vain within a minute"
            return errors.ShareSpent(detail, retry_after=spent.seconds, reason="lookups")
        return errors.ShareSpent("this minute's share of its calls is spent", retry_after=spent.seconds, reason="share")

    def found(self, who: Payer | None) -> None:
        """A lookup was not in vain: it comes out of the budget like everything else."""
        if who is None or not who.is_lookup:
            return
        now = time.time()
        for limit in self._limits(who):
            counters.add(limit, -1, at=now)
        for limit in self._limits(Payer(who.name)):
            counters.add(limit, 1, at=now)

    # --- After a call ------------------------------------------------------------------------------------------------

    def _learn(self, route: str, error: errors.TriggerError | None, *, patience: float) -> None:
        if isinstance(error, errors.TooManyRequests):
            self._stop(error.retry_after)
        if isinstance(error, errors.TimedOut) and patience < FAIR_PATIENCE:
            return
        is_trial, now = _is_trial.get(), time.time()
        opened, closed = False, False
        with self._lock:
            for name, kinds in ((route, FAILURES), (ANY, UNANSWERED)):
                if isinstance(error, kinds):
                    opened |= self._breakers[name].fail(now=now, is_trial=is_trial)
                else:
                    closed |= self._breakers[name].succeed()
            is_resting = any(one.is_open for one in self._breakers.values())
        if opened:
            logger.warning("Trigger.dev has failed repeatedly (%s). It is left alone, and tried by one call", error)
        if closed:
            logger.warning("Trigger.dev answers again")
        if opened or closed:
            RESTING.set(int(is_resting))

    def _stop(self, seconds: float) -> None:
        seconds = max(seconds, self.seconds_until_reset())
        self._stopped_until = time.time() + seconds
        if settings.CACHE_IS_SHARED:
            cache.set(self._stop_name, self._stopped_until, max(1, seconds))
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
            return any(one.is_open for one in self._breakers.values())

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
