"""A circuit breaker: after repeated failures nothing is called for a while, then one trial decides.

Pure; `now` is in seconds of any clock. In the libraries that were looked at (pybreaker, circuitbreaker, purgatory) the
next real call is the trial. Here no request may wait for a server that may still hang, so the gate sends trials in the
background, and the breaker has separate methods for starting a trial and for its result.
"""

from dataclasses import dataclass

MAX_FAILURES = 5
# Seconds. Failures further apart than this are not in a row.
FAILURE_WINDOW = 60.0
# Seconds without any call after the breaker opens, or after a failed trial.
PAUSE = 2.0
# Seconds after which a trial without a result is taken for lost.
TRIAL_TIMEOUT = 4.0


@dataclass
class CircuitBreaker:
    """Closed, open, or half-open while a trial is running. Not thread-safe: the gate holds a lock."""

    is_open: bool = False
    _failures: int = 0
    _failed_at: float = 0.0
    _open_until: float = 0.0
    _trial_until: float = 0.0

    def start_trial(self, *, now: float) -> bool:
        """Whether the caller may send the one trial of an open breaker."""
        if not self.is_open or self.seconds_left(now=now):
            return False
        self._trial_until = now + TRIAL_TIMEOUT
        return True

    def cancel_trial(self) -> None:
        """The trial was not sent, so the next call may send one."""
        self._trial_until = 0.0

    def record_success(self) -> None:
        self.is_open, self._failures, self._trial_until = False, 0, 0.0

    def record_failure(self, *, now: float, is_trial: bool) -> None:
        """A failed trial starts the next pause. Failures of calls from before the breaker opened do not extend it."""
        if self.is_open and not is_trial:
            return
        if not 0 <= now - self._failed_at <= FAILURE_WINDOW:
            self._failures = 0
        self._failures, self._failed_at, self._trial_until = self._failures + 1, now, 0.0
        if is_trial or self._failures >= MAX_FAILURES:
            self.is_open, self._open_until = True, now + PAUSE

    def seconds_left(self, *, now: float) -> float:
        """Until a call or a trial may succeed; 0.0 when a trial may start."""
        return max(_left(self._open_until, now=now), _left(self._trial_until, now=now)) if self.is_open else 0.0


def _left(until: float, *, now: float) -> float:
    """A time further ahead than possible was set before the clock went back."""
    left = until - now
    return left if 0 < left <= TRIAL_TIMEOUT else 0.0
