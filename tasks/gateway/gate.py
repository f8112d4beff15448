"""Manners towards Trigger.dev: whether a call may be sent at all, and what is learnt from how it ends.

After a 429 nothing is sent until its reset, by any process where Redis is there. After repeated failures nothing for a
while, and then one call that nobody waits for. What is sent is paid out of the budget.
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

import prometheus_client
from django.conf import settings
from django.core.cache import cache

from tasks.gateway.breaker import TRYING, Breakers, Failure
from tasks.gateway.budget import Budget
from tasks.gateway.payers import payer
from tasks.trigger import errors
from tasks.trigger.client import PROBES, Route
from tasks.trigger.responses import LONGEST_RETRY_AFTER

# Seconds: also where the reset that Trigger.dev names has passed already.
SHORTEST_STOP = 1.0
# A call that had less time than this, in seconds, says nothing about Trigger.dev when the time is up.
FAIR_PATIENCE = 1.0
OUTCOMES: dict[type[errors.TriggerError], str] = {
    errors.NotFound: "not_found",
    errors.Refused: "refused",
    errors.TooManyRequests: "rate_limited",
    errors.NotReached: "not_reached",
    errors.TimedOut: "timed_out",
    errors.Failed: "failed",
    errors.BrokenAnswer: "broken",
}
FAILURES: dict[type[errors.TriggerError], Failure] = {
    errors.NotReached: Failure.SILENT,
    errors.TimedOut: Failure.SILENT,
    errors.Failed: Failure.BAD,
    errors.BrokenAnswer: Failure.BAD,
}
CALLS = prometheus_client.Counter(
    "recoup_trigger_calls", "Calls to Trigger.dev, and such as were not sent, by how they ended.", ["route", "outcome"]
)
RESTING = prometheus_client.Gauge(
    "recoup_trigger_resting",
    "Workers that leave Trigger.dev, or one kind of question, alone after failures.",
    multiprocess_mode="livesum",
)

logger = logging.getLogger(__name__)


# Whether the present call is the one that tries again.
_is_trial: ContextVar[bool] = ContextVar("is_trial", default=False)


@contextmanager
def trial() -> Iterator[None]:
    """Within it a call is the one that tries again whether its kind is answered."""
    token = _is_trial.set(True)
    try:
        yield
    finally:
        _is_trial.reset(token)


class Manners:
    """The gate of the process's one client. `start_trial`: has one call of a kind sent behind all answers."""

    def __init__(self, environment: str, *, start_trial: Callable[[Route], bool]) -> None:
        self.budget = Budget(environment)
        self._stop_name, self._start_trial = f"stopped:{environment}", start_trial
        self._lock = threading.Lock()
        self._breakers = Breakers(PROBES)
        self._stopped_until = 0.0
        self._summary = Summary()

    def __call__(self, route: Route, *, patience: float) -> AbstractContextManager[object]:
        return self._passed(route, patience=patience)

    @contextmanager
    def _passed(self, route: Route, *, patience: float) -> Iterator[None]:
        is_trial = _is_trial.get()
        try:
            self._refuse_until_reset()
            is_trial = is_trial or self._refuse_while_resting(route)
            self.budget.pay(payer.get())
        except errors.NotAsked as error:
            self._count(route, error.reason)
            if is_trial:
                self._give_back(route)
            raise
        try:
            yield
        except errors.TriggerError as error:
            self._count(route, OUTCOMES[type(error)])
            self._learn(route, error, is_trial=is_trial, patience=patience)
            raise
        self._count(route, "answered")
        self._learn(route, None, is_trial=is_trial, patience=patience)

    # --- Before a call -----------------------------------------------------------------------------------------------

    def _refuse_while_resting(self, route: Route) -> bool:
        """Whether this call is the one that tries again."""
        with self._lock:
            admission = self._breakers.admit(route, now=time.time())
        self._try(admission.trials)
        if not admission.is_admitted:
            raise errors.Resting(retry_after=admission.seconds or TRYING, reason="resting")
        return admission.is_trial

    def _refuse_until_reset(self) -> None:
        left = self.seconds_until_reset()
        if left:
            raise errors.NotAsked("it asked us to wait", retry_after=left, reason="until_reset")

    def _give_back(self, route: Route) -> None:
        with self._lock:
            self._breakers.give_back(route)

    def _try(self, routes: tuple[Route, ...]) -> None:
        for route in routes:
            if not self._start_trial(route):
                self._give_back(route)

    # --- After a call ------------------------------------------------------------------------------------------------

    def _learn(self, route: Route, error: errors.TriggerError | None, *, is_trial: bool, patience: float) -> None:
        if isinstance(error, errors.TooManyRequests):
            self._stop(error.retry_after)
        if isinstance(error, errors.TimedOut) and patience < min(FAIR_PATIENCE, settings.REQUEST_DEADLINE / 2):
            if is_trial:
                self._give_back(route)
            return
        failure = FAILURES.get(type(error)) if error is not None else None
        with self._lock:
            before = self._breakers.has_open()
            trials = self._breakers.learn(route, failure, is_trial=is_trial, now=time.time())
            after = self._breakers.has_open()
            RESTING.set(int(after))
        if after and not before:
            logger.warning("Trigger.dev has failed repeatedly (%s). It is left alone, and tried by one call", error)
        if before and not after:
            logger.warning("Trigger.dev answers again")
        self._try(trials)

    def _stop(self, seconds: float) -> None:
        seconds = max(seconds, self.seconds_until_reset(), SHORTEST_STOP)
        self._stopped_until = time.time() + seconds
        if settings.CACHE_IS_SHARED:
            # Django's Redis takes whole seconds; what is kept says itself when it ends.
            cache.set(self._stop_name, self._stopped_until, math.ceil(seconds) + 1)
        logger.warning("Trigger.dev asks us to wait: nothing is sent for %.1f seconds", seconds)

    def seconds_until_reset(self) -> float:
        """0.0 when Trigger.dev has not asked us to wait."""
        now = time.time()
        shared = cache.get(self._stop_name, 0.0) if settings.CACHE_IS_SHARED else 0.0
        left = max(self._stopped_until, shared or 0.0) - now
        # What is further ahead than any reset was told by a clock that has been set back since.
        return left if 0 < left <= LONGEST_RETRY_AFTER else 0.0

    def is_resting(self) -> bool:
        """Whether some kind of question is not asked after failures."""
        with self._lock:
            return self._breakers.has_open()

    def leaves_alone(self, route: Route) -> bool:
        """Whether a call of this kind would be refused, for whatever Trigger.dev has done."""
        with self._lock:
            rests = self._breakers.rests(route)
        return rests or self.seconds_until_reset() > 0

    def _count(self, route: Route, outcome: str) -> None:
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
