"""When to stop asking somebody who fails, and when to try again: with one question, and not with everybody's.

Trigger.dev can fail at one kind of question and answer the others, so each kind has a breaker of its own. When one gets
no answers all are opened, and one question of each kind tells which of them may be closed again at once.

Pure, and for one thread at a time; `now` is in seconds of any clock that goes on.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from tasks.trigger.client import Route

FAILURES = 5
# Seconds: failures further apart than this are not in a row.
IN_A_ROW = 60.0
# Seconds: for so long nothing is asked, and so long the one question that tries again may take.
PAUSE = 2.0
TRIAL = 4.0
# What is told, in seconds, to who asks during a trial.
TRYING = 1.0


class Failure(Enum):
    """`BAD`: an answer, and no good one. It may be about one thing that was asked for, and not about its kind."""

    SILENT = auto()
    BAD = auto()


class Admission(NamedTuple):
    """Whether a question may be asked; else in how many seconds it may be worth trying.

    `is_trial`: it is the one question that tries again. `trials`: the kinds that should be tried now, with one each.
    """

    is_admitted: bool
    seconds: float = 0.0
    is_trial: bool = False
    trials: tuple[Route, ...] = ()


@dataclass
class Breaker:
    """`is_silent`: why it is open. `is_acquitted`: a trial has closed it, and no answer came since."""

    is_open: bool = False
    is_silent: bool = False
    is_acquitted: bool = False
    failures: int = 0
    failed_at: float = 0.0
    answered_at: float = 0.0
    paused_until: float = 0.0
    trial_until: float = 0.0

    def seconds_left(self, *, now: float) -> float:
        """How long until it is worth asking again. While it is being tried, that may be any moment."""
        return TRYING if left_until(self.trial_until, now=now) else left_until(self.paused_until, now=now)

    def begin_trial(self, *, now: float, is_sudden: bool = False) -> bool:
        """Whether this is the one question that may try. Only its end, or time, permits another one.

        `is_sudden`: the pause need not be over.
        """
        is_paused = not is_sudden and left_until(self.paused_until, now=now) > 0
        if is_paused or left_until(self.trial_until, now=now):
            return False
        self.trial_until = now + TRIAL
        return True

    def end_trial(self) -> bool:
        """Whether one was under way. What has answered since has ended it already."""
        was_under_way, self.trial_until = self.trial_until > 0, 0.0
        return was_under_way

    def succeed(self, *, now: float, is_trial: bool) -> bool:
        """Whether that has closed it."""
        was_open, self.is_open, self.failures, self.paused_until, self.trial_until = self.is_open, False, 0, 0.0, 0.0
        self.answered_at, self.is_acquitted = now, is_trial
        return was_open

    def fail(self, *, now: float) -> bool:
        """Whether there have been so many failures in a row that it should open."""
        if not 0 <= now - self.failed_at <= IN_A_ROW:
            self.failures = 0
        self.failures, self.failed_at = self.failures + 1, now
        return not self.is_open and self.failures >= FAILURES

    def open(self, failure: Failure, *, now: float) -> bool:
        """Whether that has opened it. Also when a trial has failed: then the next pause begins."""
        was_open, self.is_open, self.is_silent = self.is_open, True, failure is Failure.SILENT
        self.paused_until = now + PAUSE
        return not was_open

    def has_just_answered(self, *, now: float) -> bool:
        return 0 <= now - self.answered_at < PAUSE


class Breakers:
    """One for each kind of question. `triable`: those that a question which changes nothing can try.

    Of any other kind the next real question after a pause is the trial; and none is asked while Trigger.dev is away,
    which is when all triable kinds are silent.
    """

    def __init__(self, triable: Collection[Route]) -> None:
        self._triable = tuple(triable)
        self._of: dict[Route, Breaker] = defaultdict(Breaker)

    def admit(self, kind: Route, *, now: float) -> Admission:
        breaker, is_triable = self._of[kind], kind in self._triable
        if not self.rests(kind):
            return Admission(True)
        if not is_triable and self.is_away():
            trials = self._begin(self._triable, now=now)
            return Admission(False, min(self._of[one].seconds_left(now=now) for one in self._triable), trials=trials)
        begins = breaker.begin_trial(now=now)
        if is_triable:
            return Admission(False, breaker.seconds_left(now=now), trials=(kind,) if begins else ())
        return Admission(begins, breaker.seconds_left(now=now), is_trial=begins)

    def give_back(self, kind: Route) -> None:
        """A trial that was not sent after all: the next one may try."""
        self._of[kind].end_trial()

    def learn(self, kind: Route, failure: Failure | None, *, is_trial: bool, now: float) -> tuple[Route, ...]:
        """What a question came to; says which kinds should be tried now, with one question each."""
        breaker, is_triable = self._of[kind], kind in self._triable
        is_trial = is_trial and breaker.end_trial()
        if failure is None or (failure is Failure.BAD and not is_triable):
            has_closed = breaker.succeed(now=now, is_trial=is_trial)
            return self._begin(self._which(are_open=True), now=now) if has_closed else ()
        is_enough = breaker.fail(now=now)
        if failure is Failure.BAD and not is_trial:
            return self._begin([kind], now=now) if is_enough else ()
        if not (is_trial or is_enough) or not breaker.open(failure, now=now) or failure is Failure.BAD:
            return ()
        return self._doubt(kind, is_proven=is_trial, now=now)

    def _doubt(self, kind: Route, *, is_proven: bool, now: float) -> tuple[Route, ...]:
        """One kind is silent. Are the others too? And all of this kind, or only the few things that were asked for?"""
        others = self._which(are_open=False)
        for other in others:
            if not self._of[other].has_just_answered(now=now):
                self._of[other].open(Failure.SILENT, now=now)
        is_doubtful = kind in self._triable and not is_proven and not self._of[kind].is_acquitted
        return self._begin([*others, kind] if is_doubtful else others, now=now, is_sudden=True)

    def is_away(self) -> bool:
        return all(self._of[kind].is_open and self._of[kind].is_silent for kind in self._triable)

    def has_open(self) -> bool:
        return any(breaker.is_open for breaker in self._of.values())

    def rests(self, kind: Route) -> bool:
        return self._of[kind].is_open or (kind not in self._triable and self.is_away())

    def _which(self, *, are_open: bool) -> list[Route]:
        return [kind for kind in self._triable if self._of[kind].is_open == are_open]

    def _begin(self, kinds: Iterable[Route], *, now: float, is_sudden: bool = False) -> tuple[Route, ...]:
        return tuple(kind for kind in kinds if self._of[kind].begin_trial(now=now, is_sudden=is_sudden))


def left_until(moment: float, *, now: float) -> float:
    left = moment - now
    # More than there can be was told by a clock that has been set back since.
    return left if 0 < left <= max(PAUSE, TRIAL) else 0.0
