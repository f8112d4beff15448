"""When to stop asking somebody who fails, and when to try again: with one question, and not with everybody's.

Pure, and for one thread at a time; `now` is in seconds of any clock that goes on.
"""

from dataclasses import dataclass

FAILURES = 5
# Seconds: for so long nothing is asked, and so long the one question that tries again may take.
PAUSE = 2.0
TRIAL = 4.0


@dataclass
class Breaker:
    failures: int = 0
    paused_until: float = 0.0
    trial_until: float = 0.0

    @property
    def is_open(self) -> bool:
        return self.failures >= FAILURES

    def seconds_left(self, *, now: float) -> float:
        """How long until it may be tried again; 0.0 while it is closed."""
        left = max(self.paused_until, self.trial_until) - now
        # More than there can be was told by a clock that has been set back since.
        return left if self.is_open and 0 < left <= max(PAUSE, TRIAL) else 0.0

    def begin_trial(self, *, now: float) -> bool:
        """Whether this is the one question that may try again. Only its end, or time, permits another one."""
        if not self.is_open or self.seconds_left(now=now):
            return False
        self.trial_until = now + TRIAL
        return True

    def succeed(self) -> bool:
        """Whether that has closed it."""
        was_open = self.is_open
        self.failures, self.paused_until, self.trial_until = 0, 0.0, 0.0
        return was_open

    def fail(self, *, now: float, is_trial: bool = False) -> bool:
        """Whether that has opened it. What was asked before it opened may fail long after: no trial ends with it."""
        was_open = self.is_open
        self.failures += 1
        if is_trial:
            self.trial_until = 0.0
        if self.is_open and (is_trial or not was_open):
            self.paused_until = now + PAUSE
        return self.is_open and not was_open
