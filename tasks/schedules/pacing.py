"""How fast a command may call Trigger.dev: many calls in a row, none of them urgent.

It leaves half of the rate limit to the service, waits after a 429, and gives up when Trigger.dev stays unavailable.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from tasks.trigger import errors
from tasks.trigger.client import TriggerClient

# Seconds.
MAX_CALL = 8.0
MAX_PAUSE = 5.0
MIN_PAUSE_WHILE_OPEN = 2.0
MAX_UNANSWERED_CALLS = 10
MAX_RATE_LIMITED_CALLS = 10

Answer = TypeVar("Answer")


class Unavailable(Exception):
    """Trigger.dev is unavailable"""


@dataclass
class Pace:
    """`now` and `wait` (seconds, reason) are the clock of the command that uses it."""

    client: TriggerClient
    now: Callable[[], datetime]
    wait: Callable[[float, str], None]
    unanswered: int = 0
    rate_limited: int = 0

    def call(self, request: Callable[[float], Answer]) -> Answer:
        """The answer to a request that takes a deadline. Raises Unavailable, and any other TriggerError."""
        while True:
            self.leave_half_of_rate_limit(calls=1)
            try:
                answer = request(next_deadline())
            except errors.CircuitOpen as error:
                self.wait_for_circuit(error.retry_after)
            except (errors.TooManyRequests, errors.NotSent) as error:
                self.wait_for_reset(error.retry_after)
            except (errors.NotReached, errors.TimedOut):
                self.record(is_answered=False)
                raise
            except errors.TriggerError:
                self.record(is_answered=True)
                raise
            else:
                self.record(is_answered=True)
                return answer

    def record(self, *, is_answered: bool) -> None:
        """Raises Unavailable after too many unanswered calls in a row."""
        self.rate_limited = 0
        self.unanswered = 0 if is_answered else self.unanswered + 1
        if self.unanswered >= MAX_UNANSWERED_CALLS:
            raise Unavailable(
                f"{self.unanswered} calls in a row were not answered. The remaining tasks are left for the next pass"
            )

    def leave_half_of_rate_limit(self, *, calls: int) -> None:
        """When less than half is left, waits until Trigger.dev has given this many calls back."""
        seen = self.client.allowance
        if seen is None or seen.remaining * 2 >= seen.limit or not seen.seconds:
            return
        refill_per_second = (seen.limit - seen.remaining) / seen.seconds
        self.wait(min(calls / refill_per_second, MAX_PAUSE), "to leave half of the rate limit to the service")

    def wait_for_circuit(self, seconds: float) -> None:
        """While the circuit breaker is open. Raises Unavailable, as after an unanswered call."""
        self.record(is_answered=False)
        self.wait(max(seconds, MIN_PAUSE_WHILE_OPEN), "for Trigger.dev, which has failed repeatedly")

    def wait_for_reset(self, seconds: float) -> None:
        """After a 429, or when our quota is used up. Longer each time, since a step takes several calls.

        Raises Unavailable after too many in a row.
        """
        self.rate_limited += 1
        if self.rate_limited >= MAX_RATE_LIMITED_CALLS:
            raise Unavailable(
                f"{self.rate_limited} calls in a row were rate limited. The remaining tasks are left for the next pass"
            )
        self.wait(max(seconds, min(2.0 ** (self.rate_limited - 1), MAX_PAUSE)), "until the rate limit is reset")


def next_deadline() -> float:
    return time.monotonic() + MAX_CALL
