"""Whether a call to Trigger.dev may be sent now, and what its result means for later calls.

After a 429 nothing is sent until the rate-limit reset, by any process that shares the Redis. Each kind of call has a
circuit breaker, since Trigger.dev can fail at one kind and answer the others. Calls count against a quota.
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import prometheus_client
from django.conf import settings
from django.core.cache import cache

from core.connections import give_connections_back
from tasks.gateway.breaker import CircuitBreaker
from tasks.gateway.quota import count_call
from tasks.trigger import errors
from tasks.trigger.client import PROBES, ROUTES, Route
from tasks.trigger.responses import MAX_RETRY_AFTER

# Seconds; also where the reset that Trigger.dev names has passed already.
MIN_STOP = 1.0
# Seconds. A call with a shorter deadline that times out does not count as a failure of Trigger.dev.
MIN_PATIENCE = 1.0
OUTCOMES: dict[type[errors.TriggerError], str] = {
    errors.NotFound: "not_found",
    errors.Refused: "refused",
    errors.TooManyRequests: "rate_limited",
    errors.NotReached: "not_reached",
    errors.TimedOut: "timed_out",
    errors.Failed: "failed",
    errors.BrokenAnswer: "broken",
    errors.TooLarge: "too_large",
}
CALLS = prometheus_client.Counter(
    "recoup_trigger_calls", "Calls to Trigger.dev by outcome, calls that were not sent included.", ["route", "outcome"]
)
CIRCUIT_OPEN = prometheus_client.Gauge(
    "recoup_trigger_circuit_open",
    "Workers in which the circuit breaker of this kind of call is open.",
    ["route"],
    multiprocess_mode="livesum",
)

logger = logging.getLogger(__name__)

# Whether the calls of this thread are trials of open circuit breakers.
is_in_trial: ContextVar[bool] = ContextVar("is_in_trial", default=False)


class Gate:
    """The gate of the process's client. `start_trial` sends a probe in the background; False if it cannot."""

    def __init__(self, environment: str, *, start_trial: Callable[[Route], bool]) -> None:
        self._environment, self._stop_name, self._start_trial = environment, f"stopped:{environment}", start_trial
        self._lock = threading.Lock()
        self._breakers = {route: CircuitBreaker() for route in ROUTES.values()}
        self._stopped_until = 0.0
        self._minute, self._outcomes = 0, Counter[str]()
        # Of the last call: when it ended, in epoch seconds, and its error.
        self.last_result: tuple[float, errors.TriggerError | None] = -math.inf, None

    @contextmanager
    def __call__(self, route: Route, *, patience: float) -> Iterator[None]:
        is_trial = is_in_trial.get()
        try:
            self._check_rate_limit()
            is_trial = is_trial or self._check_breaker(route)
            count_call(self._environment, route)
        except errors.NotSent as error:
            self._count(route, error.reason)
            if is_trial:
                self._cancel_trial(route)
            raise
        # A call may take seconds, and others need the connection meanwhile.
        give_connections_back()
        try:
            yield
        except errors.TriggerError as error:
            self._count(route, OUTCOMES[type(error)])
            self._record(route, error, is_trial=is_trial, patience=patience)
            raise
        self._count(route, "answered")
        self._record(route, None, is_trial=is_trial, patience=patience)

    # --- Before a call -----------------------------------------------------------------------------------------------

    def _check_rate_limit(self) -> None:
        left = self.seconds_until_reset()
        if left:
            raise errors.NotSent("the rate limit is not reset yet", retry_after=left, reason="until_reset")

    def _check_breaker(self, route: Route) -> bool:
        """Whether this call is itself the trial. Raises CircuitOpen.

        Trials are probes in the background. No probe can start a run: for that kind of call the next real one is the
        trial, once no other breaker is open.
        """
        with self._lock:
            breaker, now = self._breakers[route], time.time()
            if not breaker.is_open:
                return False
            probed = [route] if route in PROBES else [other for other in PROBES if self._breakers[other].is_open]
            if not probed and breaker.start_trial(now=now):
                return True
            started = [other for other in probed if self._breakers[other].start_trial(now=now)]
            seconds = breaker.seconds_left(now=now)
        for other in started:
            if not self._start_trial(other):
                self._cancel_trial(other)
        raise errors.CircuitOpen(retry_after=max(seconds, MIN_STOP), reason="circuit_open")

    def _cancel_trial(self, route: Route) -> None:
        with self._lock:
            self._breakers[route].cancel_trial()

    # --- After a call ------------------------------------------------------------------------------------------------

    def _record(self, route: Route, error: errors.TriggerError | None, *, is_trial: bool, patience: float) -> None:
        if isinstance(error, errors.TooManyRequests):
            self._stop(error.retry_after)
        if isinstance(error, errors.TimedOut) and patience < min(MIN_PATIENCE, settings.REQUEST_DEADLINE / 2):
            if is_trial:
                self._cancel_trial(route)
            return
        self.last_result = time.time(), error
        with self._lock:
            was_open = self.has_open_breaker()
            if is_failure(route, error, is_trial=is_trial):
                self._breakers[route].record_failure(now=time.time(), is_trial=is_trial)
            else:
                self._breakers[route].record_success()
            is_open = self.has_open_breaker()
            CIRCUIT_OPEN.labels(route).set(int(self._breakers[route].is_open))
        if is_open and not was_open:
            logger.warning("Trigger.dev has failed repeatedly, so a circuit breaker is open. The last error: %s", error)
        if was_open and not is_open:
            logger.warning("Trigger.dev answers again, and all circuit breakers are closed")

    def _stop(self, seconds: float) -> None:
        seconds = max(seconds, self.seconds_until_reset(), MIN_STOP)
        self._stopped_until = time.time() + seconds
        if settings.CACHE_IS_SHARED:
            # Django's Redis cache takes whole seconds; the stored value says when the stop ends.
            cache.set(self._stop_name, self._stopped_until, math.ceil(seconds) + 1)
        logger.warning("Trigger.dev has rate limited us: nothing is sent for %.1f seconds", seconds)

    def seconds_until_reset(self) -> float:
        """0.0 when no 429 is in force."""
        now = time.time()
        shared = cache.get(self._stop_name, 0.0) if settings.CACHE_IS_SHARED else 0.0
        left = max(self._stopped_until, shared or 0.0) - now
        # A reset further ahead than possible was stored before the clock went back.
        return left if 0 < left <= MAX_RETRY_AFTER else 0.0

    def has_open_breaker(self) -> bool:
        return any(breaker.is_open for breaker in self._breakers.values())

    def _count(self, route: Route, outcome: str) -> None:
        """Counts the outcome, and logs once a minute how many calls ended how."""
        CALLS.labels(route, outcome).inc()
        minute, former = int(time.time() // 60), Counter[str]()
        with self._lock:
            if minute != self._minute:
                former, self._minute, self._outcomes = self._outcomes, minute, Counter()
            self._outcomes[outcome] += 1
        if former:
            parts = ", ".join(f"{count} {name}" for name, count in former.most_common())
            logger.info("Calls to Trigger.dev in one minute: %s", parts)


def is_failure(route: Route, error: errors.TriggerError | None, *, is_trial: bool) -> bool:
    """Whether the result counts against the kind of call.

    An answer that is too large is an answer. A 500 or a broken answer counts for lists only: a single run or schedule
    can break the answer about itself (recorded: run_get_packet_*, cron_L_bare_poison_create). A probe names nothing
    that exists, so its failure always counts.
    """
    if isinstance(error, errors.NotReached | errors.TimedOut):
        return True
    if isinstance(error, errors.TooLarge):
        return False
    return isinstance(error, errors.Failed | errors.BrokenAnswer) and (route == "runs" or is_trial)
