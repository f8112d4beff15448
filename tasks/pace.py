"""How fast a command may ask Trigger.dev: the service shares its allowance, and requests of people come first.

Half of the allowance is left to the service; after a 429 nothing is asked until its reset.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from tasks.trigger import errors
from tasks.trigger.client import TriggerClient

# No single call takes longer than this many seconds.
LONGEST_CALL = 8.0
TRIES_AFTER_429 = 6
# The longest pause, in seconds, that an allowance which is nearly spent asks for.
LONGEST_PAUSE = 5.0

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Pace:
    """`now` and `wait` (seconds, and what for) are the time of whoever asks."""

    client: TriggerClient
    now: Callable[[], datetime]
    wait: Callable[[float, str], None]

    def ask(self, call: Callable[[float], Answer]) -> Answer:
        """The answer of a call that takes a deadline. Raises its TriggerError, a 429 only after many tries."""
        for left in reversed(range(TRIES_AFTER_429)):
            self.leave_half(calls=1)
            try:
                return call(time.monotonic() + LONGEST_CALL)
            except errors.TooManyRequests as error:
                if not left:
                    raise
                self.wait_for_reset(error.retry_after)
        raise AssertionError("unreachable")

    def leave_half(self, *, calls: int) -> None:
        """Once less than half is left, waits as long as it takes Trigger.dev to give so many calls back."""
        seen = self.client.allowance
        if seen is None or seen.remaining * 2 >= seen.limit or not seen.seconds:
            return
        given_back_a_second = (seen.limit - seen.remaining) / seen.seconds
        self.wait(min(calls / given_back_a_second, LONGEST_PAUSE), "to leave half of the rate limit to the service")

    def wait_for_reset(self, seconds: float) -> None:
        self.wait(max(seconds, 1.0), "until Trigger.dev's rate limit is reset")
