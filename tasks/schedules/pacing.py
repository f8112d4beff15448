"""How fast a command may ask Trigger.dev: the service shares its allowance, and requests of people come first.

Half of the allowance is left to the service; what may not be asked now, after a 429 for one, is waited for.
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
MOST_UNANSWERED = 10
MOST_LIMITED = 10
# The longest pause, in seconds, that an allowance which is nearly spent asks for.
LONGEST_PAUSE = 5.0

Answer = TypeVar("Answer")


class Away(Exception):
    """Trigger.dev does not answer"""


@dataclass
class Pace:
    """`now` and `wait` (seconds, and what for) are the time of whoever asks."""

    client: TriggerClient
    now: Callable[[], datetime]
    wait: Callable[[float, str], None]
    unanswered: int = 0
    limited: int = 0

    def ask(self, call: Callable[[float], Answer]) -> Answer:
        """The answer of a call that takes a deadline, once it may ask. Raises any other TriggerError, and Away."""
        while True:
            self.leave_half(calls=1)
            try:
                answer = call(time.monotonic() + LONGEST_CALL)
            except errors.Resting as error:
                self.let_rest(error.retry_after)
            except (errors.TooManyRequests, errors.NotAsked) as error:
                self.wait_for_reset(error.retry_after)
            except (errors.NotReached, errors.TimedOut):
                self.note(is_answered=False)
                raise
            except errors.TriggerError:
                self.note(is_answered=True)
                raise
            else:
                self.note(is_answered=True)
                return answer

    def note(self, *, is_answered: bool) -> None:
        """Raises Away after so many questions in a row that nobody answered."""
        self.limited = 0
        self.unanswered = 0 if is_answered else self.unanswered + 1
        if self.unanswered >= MOST_UNANSWERED:
            raise Away(f"{self.unanswered} questions in a row; what is left stays as it is")

    def leave_half(self, *, calls: int) -> None:
        """Once less than half is left, waits as long as it takes Trigger.dev to give so many calls back."""
        seen = self.client.allowance
        if seen is None or seen.remaining * 2 >= seen.limit or not seen.seconds:
            return
        given_back_a_second = (seen.limit - seen.remaining) / seen.seconds
        self.wait(min(calls / given_back_a_second, LONGEST_PAUSE), "to leave half of the rate limit to the service")

    def let_rest(self, seconds: float) -> None:
        """While it is left alone after failures. Raises Away as if it had been asked."""
        self.note(is_answered=False)
        self.wait(max(seconds, 2.0), "for Trigger.dev, which has failed repeatedly")

    def wait_for_reset(self, seconds: float) -> None:
        """After a 429, or with nothing left of our own budget: then longer each time, since a step takes several calls.

        Raises Away when that was no use so often.
        """
        self.limited += 1
        if self.limited >= MOST_LIMITED:
            raise Away(f"it could not be asked {self.limited} times in a row; what is left stays as it is")
        self.wait(max(seconds, min(2.0 ** (self.limited - 1), LONGEST_PAUSE)), "until Trigger.dev may be asked again")
