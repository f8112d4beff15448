"""Settling: Trigger.dev's schedule is made equal to the task's row, never the other way round.

Settling one task is three steps. *Claim*, in a short transaction: take the lease and note until when a request that
we are about to send may still take effect. *Act*, with no transaction open: look by key, plan, carry out; begin no call
that could outlast the lease. *Finish*, where the lease is still ours: say what Trigger.dev is now known to hold.

A worker that stalls, or a request that is executed after we gave up on it, leaves a row that says `pending`, and is
looked at again. tests/test_settling.py plays the interleavings.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from django.db import DatabaseError, IntegrityError, transaction

from tasks.gateway import upstream
from tasks.gateway.environment import NotOurEnvironment, check_environment
from tasks.models import Task
from tasks.schedules.planning import Step, carry_out, look, plan, wanted_by
from tasks.trigger import errors
from tasks.trigger.client import TriggerClient
from tasks.trigger.types import Schedule

LEASE = timedelta(seconds=30)
# By then every request that was sent under the lease is dead.
UNSETTLED_FOR = timedelta(seconds=60)
# No call takes longer than this many seconds, and none begins with less than this left of the lease.
LONGEST_CALL = 8.0
# What a request of the API waits for its one attempt, in seconds.
ATTEMPT_WITHIN = 2.5
# What Trigger.dev's refusals of a cron or a zone begin with: those are the writer's fault, any other is ours.
REFUSALS_OF_THE_WRITER = ("Invalid cron expression", "Invalid IANA timezone")

logger = logging.getLogger(__name__)


class LeaseTooShort(Exception):
    """Too little is left of the lease to begin another call"""


@dataclass(frozen=True)
class Claim:
    """`at` is when it was made, and `started` the same on `clock`, in seconds, which nobody sets."""

    task: Task
    token: UUID
    at: datetime
    started: float
    former_mark: datetime | None
    clock: Callable[[], float]

    @property
    def was_clear(self) -> bool:
        return self.former_mark is None or self.former_mark <= self.at

    @property
    def may_be_as_before(self) -> bool:
        """Where nothing was sent in doubt, and a look that failed leaves the row pending all the same."""
        return self.former_mark is None and self.task.synced_generation != self.task.generation

    @property
    def unsettled_until(self) -> datetime:
        return self.at + UNSETTLED_FOR

    @property
    def now(self) -> datetime:
        return self.at + timedelta(seconds=self.clock() - self.started)

    def call_deadline(self) -> float:
        """In seconds of `clock`; LeaseTooShort when a call begun now could outlast the lease."""
        now = self.clock()
        if now + LONGEST_CALL > self.started + LEASE.total_seconds():
            raise LeaseTooShort
        return now + LONGEST_CALL


@dataclass(frozen=True)
class Outcome:
    """What an attempt came to. `refusal` is Trigger.dev's word on a cron or a zone that it does not take.

    `retry_after`: in how many seconds Trigger.dev may be asked again, where that is known. `is_unanswered`: it did
    not say anything, good or bad. `is_busy`: somebody else has the lease, and nothing was tried.
    """

    step: Step | None
    settled: bool
    refusal: str = ""
    retry_after: float | None = None
    is_unanswered: bool = False
    is_busy: bool = False


def settle(
    task_id: UUID, *, at: datetime, within: float = ATTEMPT_WITHIN, clock: Callable[[], float] = time.monotonic
) -> Outcome:
    """One attempt, in at most about `within` seconds. It never raises for what Trigger.dev does.

    Nothing is done while another one holds the lease: the row stays pending, and its next reader sees it.
    """
    try:
        claim = take_lease(task_id, at=at, clock=clock)
    except DatabaseError:
        # What was written before stands, and is settled by somebody else.
        logger.exception("Task %s could not be claimed", task_id)
        return Outcome(None, settled=False, is_busy=True)
    if claim is None:
        return Outcome(None, settled=False, is_busy=True)
    until = clock() + within

    def deadline() -> float:
        return min(until, claim.call_deadline())

    try:
        check_environment(at=at)
        step, schedule = act(claim.task, upstream.client(), deadline=deadline)
    except (errors.Refused, errors.NotFound) as error:
        return finish_refused(claim, error)
    except (errors.TooManyRequests, errors.NotAsked) as error:
        logger.info("Task %s is not settled: %s", task_id, error)
        finish(claim, definite=True, reason=str(error))
        is_resting = isinstance(error, errors.Resting)
        return Outcome(None, settled=False, retry_after=error.retry_after, is_unanswered=is_resting)
    except (errors.TriggerError, LeaseTooShort, NotOurEnvironment) as error:
        logger.warning("Task %s is not settled: %s", task_id, error)
        finish(claim, definite=isinstance(error, NotOurEnvironment), reason=str(error))
        is_unanswered = isinstance(error, errors.NotReached | errors.TimedOut)
        return Outcome(None, settled=False, is_unanswered=is_unanswered)
    except Exception:
        # Our fault. The write stands all the same, and its reader is told that it is not settled.
        logger.exception("Task %s could not be settled", task_id)
        finish(claim, definite=False, reason="Settling it failed on our side; the log says how.")
        return Outcome(None, settled=False)
    return finish_settled(claim, step, schedule)


def act(task: Task, client: TriggerClient, *, deadline: Callable[[], float]) -> tuple[Step, Schedule | None]:
    wanted = wanted_by(task)
    schedule = look(wanted, task.trigger_schedule_id, client, deadline=deadline)
    step = plan(wanted, schedule)
    return step, carry_out(step, wanted, schedule, client, deadline=deadline)


def take_lease(task_id: UUID, *, at: datetime, clock: Callable[[], float] = time.monotonic) -> Claim | None:
    with transaction.atomic():
        task = Task.objects.select_for_update().filter(pk=task_id).first()
        # A lease that lasts longer than any was made by a wrong clock.
        if task is None or (task.lease_until is not None and at < task.lease_until <= at + LEASE):
            return None
        claim = Claim(
            task=task,
            token=uuid4(),
            at=at,
            started=clock(),
            former_mark=task.unsettled_until,
            clock=clock,
        )
        Task.objects.filter(pk=task_id).update(
            lease_token=claim.token, lease_until=at + LEASE, unsettled_until=claim.unsettled_until
        )
    return claim


def finish(claim: Claim, *, definite: bool, schedule: Schedule | None = None, reason: str = "") -> bool:
    """False where the lease was lost, or nothing could be written down: then the row stays unsettled."""
    try:
        return write_down(claim, definite=definite, schedule=schedule, reason=reason)
    except IntegrityError:
        raise
    except DatabaseError:
        logger.exception("What became of task %s could not be written down", claim.task.pk)
        return False


def write_down(claim: Claim, *, definite: bool, schedule: Schedule | None, reason: str) -> bool:
    """False where the lease was lost.

    Without `reason` Trigger.dev holds what the claim read. With one, what was unsettled before stays unsettled:
    only a look that succeeded can tell.
    """
    mine = Task.objects.filter(pk=claim.task.pk, lease_token=claim.token)
    result: dict[str, object] = {"sync_error": reason}
    if not reason:
        result |= {"synced_generation": claim.task.generation, "refused_generation": None}
        result["trigger_schedule_id"] = schedule.id if schedule else claim.task.trigger_schedule_id
    with transaction.atomic():
        if definite:
            is_clear = claim.may_be_as_before if reason else claim.was_clear
            # Nothing of ours is under way, so that only what was in doubt before still is, and for no longer.
            mark = None if is_clear else min(claim.former_mark or claim.unsettled_until, claim.unsettled_until)
            mine.filter(unsettled_until=claim.unsettled_until).update(unsettled_until=mark)
        if mine.update(**result, lease_token=None, lease_until=None):
            return True
        # What we sent may come after what the lease's new holder saw.
        again = Task.objects.filter(pk=claim.task.pk)
        again.update(unsettled_until=claim.now + UNSETTLED_FOR)
        return False


def finish_settled(claim: Claim, step: Step, schedule: Schedule | None) -> Outcome:
    try:
        return Outcome(step, settled=finish(claim, definite=True, schedule=schedule))
    except IntegrityError:
        finish(claim, definite=True, reason="Its schedule at Trigger.dev is already that of another task.")
        return Outcome(step, settled=False)


def finish_refused(claim: Claim, error: errors.TriggerError) -> Outcome:
    """A definite no: nothing is under way any more, though an earlier call of the same step may have worked."""
    reason = error.reason if isinstance(error, errors.Refused) else ""
    is_writers_fault = reason.startswith(REFUSALS_OF_THE_WRITER)
    logger.warning("Task %s was refused: %s", claim.task.pk, error)
    is_ours = finish(claim, definite=True, reason=str(error))
    if not is_writers_fault or not is_ours:
        return Outcome(None, settled=False)
    Task.objects.filter(pk=claim.task.pk, generation=claim.task.generation).update(
        refused_generation=claim.task.generation
    )
    return Outcome(None, settled=False, refusal=reason)
