"""When to stop asking somebody who fails, and when to try again: with one question, and not with everybody's.

Pure, and for one thread at a time; `now` is in seconds of any clock that goes on.
"""

from dataclasses import dataclass

FAILURES = 5
# Seconds: failures further apart than this are not in a row.
IN_A_ROW = 60.0
# Seconds: for so long nothing is asked, and so long the one question that tries again may take.
PAUSE = 2.0
TRIAL = 4.0


@dataclass
class Breaker:
    is_open: bool = False
    failures: int = 0
    failed_at: float = 0.0
    paused_until: float = 0.0
    trial_until: float = 0.0

    def seconds_left(self, *, now: float) -> float:
        """How long until it may be tried again."""
        left = max(self.paused_until, self.trial_until) - now
        # More than there can be was told by a clock that has been set back since.
        return left if 0 < left <= max(PAUSE, TRIAL) else 0.0

    def begin_trial(self, *, now: float) -> bool:
        """Whether this is the one question that may try. Only its end, or time, permits another one."""
        if self.seconds_left(now=now):
            return False
        self.trial_until = now + TRIAL
        return True

    def succeed(self) -> bool:
        """Whether that has closed it."""
        was_open = self.is_open
        self.is_open, self.failures, self.paused_until, self.trial_until = False, 0, 0.0, 0.0
        return was_open

    def fail(self, *, now: float) -> bool:
        """Whether there have been so many failures in a row that it should open, unless a trial succeeds."""
        if not 0 <= now - self.failed_at <= IN_A_ROW:
            self.failures = 0
        self.failures, self.failed_at = self.failures + 1, now
        return not self.is_open and self.failures >= FAILURES

    def open(self, *, now: float) -> None:
        """Also when a trial has failed: then the next pause begins."""
        self.is_open, self.paused_until, self.trial_until = True, now + PAUSE, 0.0
