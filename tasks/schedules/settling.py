"""Settling makes the schedule at Trigger.dev equal to the task's row, never the other way round.

Settling one task has three parts. *Claim*, in a short transaction: take the lease, and mark the row unsettled until no
request that we are about to send can still take effect. *Act*, with no transaction open: read, plan, carry out; start
no call that could outlast the lease. *Finish*, if the lease is still ours: store what Trigger.dev now holds.

A process that stalls, or a request that is executed after its timeout, leaves the row `pending`, and the task is
settled again later. tests/tasks/schedules/test_settling.py runs the interleavings.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from uuid import UUID, uuid4

from django.db import DatabaseError, IntegrityError, transaction
from django.db.models import F, Q
from django.utils import timezone

from tasks import cron
from tasks.cron import calendar
from tasks.gateway import upstream
from tasks.gateway.environment import NotOurEnvironment, check_environment
from tasks.models import SyncFailure, Task
from tasks.schedules import next_runs
from tasks.schedules.planning import Step, carry_out, delete_by_key, desired_schedule, find_schedule, plan
from tasks.trigger import errors
from tasks.trigger.client import TriggerClient
from tasks.trigger.types import Schedule

LEASE = timedelta(seconds=30)
# After this time no request that was sent under the lease can still take effect.
UNSETTLED_FOR = timedelta(seconds=60)
# The maximum seconds of a call. None starts with less than this left of the lease.
MAX_CALL = 8.0
# Between two tries of a task that Trigger.dev refuses, for example because its plan has no room for another schedule.
MIN_PAUSE, MAX_PAUSE = timedelta(minutes=1), timedelta(hours=1)
# The seconds that a request of the API waits for its one attempt.
ATTEMPT_WITHIN = 2.5
# How Trigger.dev's refusals of a cron expression or a time zone begin. Any other refusal is not the writer's fault.
INVALID_SCHEDULE = ("Invalid cron expression", "Invalid IANA timezone")

logger = logging.getLogger(__name__)


class LeaseTooShort(Exception):
    """Too little time is left of the lease to start another call"""


@dataclass(frozen=True)
class Claim:
    """A lease on one task. `at` is its time; `started` is the same moment in seconds of `clock`, a monotonic clock."""

    task: Task
    token: UUID
    at: datetime
    started: float
    former_mark: datetime | None
    clock: Callable[[], float]

    @property
    def was_settled(self) -> bool:
        """No earlier request could still take effect."""
        return self.former_mark is None or self.former_mark <= self.at

    @property
    def is_first(self) -> bool:
        """Nothing was ever sent for this task: Trigger.dev cannot have a schedule with its key."""
        row = self.task
        is_new = row.generation == 1 and not row.synced_generation and row.trigger_schedule_id is None
        return is_new and self.former_mark is None

    @property
    def can_restore_mark(self) -> bool:
        """Whether the row may be as before the claim: no earlier request is in doubt, and it is pending in any case."""
        return self.former_mark is None and self.task.synced_generation != self.task.generation

    @property
    def unsettled_until(self) -> datetime:
        return self.at + UNSETTLED_FOR

    @property
    def now(self) -> datetime:
        return self.at + timedelta(seconds=self.clock() - self.started)

    def call_deadline(self) -> float:
        """In seconds of `clock`. Raises LeaseTooShort when a call that starts now could outlast the lease."""
        now = self.clock()
        if now + MAX_CALL > self.started + LEASE.total_seconds():
            raise LeaseTooShort
        return now + MAX_CALL


class OutcomeKind(Enum):
    SETTLED = auto()  # Trigger.dev holds what the row said
    LEASE_LOST = auto()  # the step was taken, but another process has the lease now
    INVALID = auto()  # Trigger.dev refused the cron expression or the time zone
    REFUSED = auto()  # Trigger.dev refused something else
    BUSY = auto()  # another process holds the lease, so nothing was tried
    RATE_LIMITED = auto()  # nothing was sent, or Trigger.dev asked us to wait
    CIRCUIT_OPEN = auto()  # nothing was sent, after repeated failures
    UNANSWERED = auto()  # Trigger.dev did not answer
    FAILED = auto()  # anything else


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. `refusal`: Trigger.dev's words for INVALID. `retry_after`: seconds until the next try."""

    kind: OutcomeKind
    step: Step | None = None
    refusal: str = ""
    retry_after: float = 0.0

    @property
    def is_settled(self) -> bool:
        return self.kind is OutcomeKind.SETTLED


def settle(
    task_id: UUID, *, at: datetime, within: float = ATTEMPT_WITHIN, clock: Callable[[], float] = time.monotonic
) -> Outcome:
    """One attempt, in about `within` seconds at most. Never raises for what Trigger.dev does.

    Nothing is done while another process holds the lease: the row stays pending, and is settled later.
    """
    try:
        claim = claim_task(task_id, at=at, clock=clock)
    except DatabaseError:
        # The write before this stands, and is settled later.
        logger.exception("Task %s could not be claimed", task_id)
        return Outcome(OutcomeKind.BUSY)
    if claim is None:
        return Outcome(OutcomeKind.BUSY)
    until = clock() + within

    def next_deadline() -> float:
        return min(until, claim.call_deadline())

    try:
        check_environment(at=at)
        if claim.task.deleted_at is None:
            # A row that is older than this check: Trigger.dev would answer 500, at each try.
            cron.check(claim.task.schedule)
        step, schedule = act(claim.task, upstream.client(), is_first=claim.is_first, next_deadline=next_deadline)
    except (errors.Refused, errors.NotFound) as error:
        return finish_refused(claim, error)
    except cron.CronError as error:
        return finish_invalid(claim, str(error), refusal=str(error))
    except Exception as error:
        return finish_failed(claim, error)
    return finish_settled(claim, step, schedule)


def settle_pending(limit: int = 20) -> int:
    """One attempt for each of some pending tasks that nothing earlier can change any more. How many were settled."""
    now = timezone.now()
    is_waiting = Q(unsettled_until__gt=now) | Q(lease_until__gt=now) | Q(settle_after__gt=now)
    pending = Task.objects.unsettled().exclude(is_waiting | Q(refused_generation=F("generation")))
    pending = pending.order_by(F("settle_after").asc(nulls_first=True), "updated_at", "pk")
    task_ids = list(pending.values_list("pk", flat=True)[:limit])
    return sum(settle(task_id, at=timezone.now()).is_settled for task_id in task_ids)


def act(
    task: Task, client: TriggerClient, *, is_first: bool = False, next_deadline: Callable[[], float]
) -> tuple[Step, Schedule | None]:
    """A new task is created without a read: a POST by its key would also replace a schedule that exists.

    A deleted one is deleted without a read: a schedule with its key is ours. Only an adopted one has to be found.
    """
    desired, schedule = desired_schedule(task), None
    if not desired.exists and delete_by_key(desired, client, next_deadline=next_deadline):
        return Step.DELETE, None
    if not (is_first and desired.active):
        schedule = find_schedule(
            desired, task.trigger_schedule_id, client, by_key=desired.exists, next_deadline=next_deadline
        )
    step = plan(desired, schedule)
    return step, carry_out(step, desired, schedule, client, next_deadline=next_deadline)


def claim_task(task_id: UUID, *, at: datetime, clock: Callable[[], float] = time.monotonic) -> Claim | None:
    with transaction.atomic():
        task = Task.objects.select_for_update().filter(pk=task_id).first()
        # A lease that ends later than it can was written by a wrong clock.
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
    """False where the lease was lost or the database failed: then the row stays unsettled."""
    try:
        return store(claim, definite=definite, schedule=schedule, reason=reason)
    except IntegrityError:
        raise
    except DatabaseError:
        logger.exception("The result for task %s could not be stored", claim.task.pk)
        return False


def store(claim: Claim, *, definite: bool, schedule: Schedule | None, reason: str) -> bool:
    """False where the lease was lost. `definite`: no request of ours can still take effect.

    Without `reason`, Trigger.dev holds what the claim read. With one, a task that was unsettled before stays unsettled,
    since only a successful read shows what Trigger.dev holds.
    """
    mine = Task.objects.filter(pk=claim.task.pk, lease_token=claim.token)
    result: dict[str, object] = {"sync_error": reason}
    is_replaced = schedule is not None and claim.task.trigger_schedule_id not in (None, schedule.id)
    if is_replaced and not reason:
        # Runs are listed by the id of the schedule: a deep poll finds what only the new one has.
        result["deep_polled_at"] = None
    if not reason:
        result |= {"synced_generation": claim.task.generation, "refused_generation": None, "settle_after": None}
        result["trigger_schedule_id"] = schedule.id if schedule else claim.task.trigger_schedule_id
    with transaction.atomic():
        if definite:
            can_clear = claim.can_restore_mark if reason else claim.was_settled
            # Only an earlier request may still be in doubt, and for no longer than before.
            mark = None if can_clear else min(claim.former_mark or claim.unsettled_until, claim.unsettled_until)
            mine.filter(unsettled_until=claim.unsettled_until).update(unsettled_until=mark)
        if mine.update(**result, lease_token=None, lease_until=None):
            if "deep_polled_at" in result:
                Task.objects.filter(pk=claim.task.pk).poll_soon(at=claim.now)
            if reason and not claim.task.sync_error:
                SyncFailure.objects.create(task=claim.task, at=claim.now, reason=reason)
            return True
        # Our request may take effect after the new holder of the lease has read the schedule.
        again = Task.objects.filter(pk=claim.task.pk)
        again.update(unsettled_until=claim.now + UNSETTLED_FOR)
        return False


def finish_settled(claim: Claim, step: Step, schedule: Schedule | None) -> Outcome:
    try:
        is_stored = finish(claim, definite=True, schedule=schedule)
        if is_stored:
            confirm_calendar(claim, schedule)
        return Outcome(OutcomeKind.SETTLED if is_stored else OutcomeKind.LEASE_LOST, step)
    except IntegrityError:
        finish(claim, definite=True, reason="Its schedule at Trigger.dev already belongs to another task.")
        return Outcome(OutcomeKind.FAILED, step)


def confirm_calendar(claim: Claim, schedule: Schedule | None) -> None:
    """Trigger.dev fires by the row from now on. The runs are polled, since a fire may have come meanwhile."""
    periods = calendar.confirm(claim.task.calendar, at=claim.now)
    shift = next_runs.shift_of(schedule, at=claim.now) if schedule is not None else None
    if shift:
        periods = calendar.shifted(periods, shift, at=claim.now)
    if periods == claim.task.calendar:
        return
    try:
        unchanged = Task.objects.filter(pk=claim.task.pk, generation=claim.task.generation)
        if unchanged.update(fire_periods=calendar.to_json(periods)):
            unchanged.poll_soon(at=claim.now)
    except DatabaseError:
        logger.exception("The calendar of task %s could not be confirmed", claim.task.pk)


def finish_refused(claim: Claim, error: errors.TriggerError) -> Outcome:
    """A definite no. Nothing can still take effect, though an earlier call of the same step may have succeeded."""
    refusal = error.reason if isinstance(error, errors.Refused) else ""
    outcome = finish_invalid(claim, str(error), refusal=refusal if refusal.startswith(INVALID_SCHEDULE) else "")
    if outcome.kind is OutcomeKind.REFUSED and isinstance(error, errors.Refused):
        put_off(claim)
    return outcome


def finish_invalid(claim: Claim, reason: str, *, refusal: str) -> Outcome:
    """`refusal`: what is wrong with the cron expression or the time zone; empty where it is something else."""
    logger.warning("Task %s was refused: %s", claim.task.pk, reason)
    has_lease = finish(claim, definite=True, reason=reason)
    if not refusal or not has_lease:
        return Outcome(OutcomeKind.REFUSED)
    Task.objects.filter(pk=claim.task.pk, generation=claim.task.generation).update(
        refused_generation=claim.task.generation
    )
    return Outcome(OutcomeKind.INVALID, refusal=refusal)


def put_off(claim: Claim) -> None:
    """Delays the next try of the worker by as long as Trigger.dev has refused the task, within bounds."""
    since = SyncFailure.objects.filter(task=claim.task).values_list("at", flat=True).first() or claim.now - MAX_PAUSE
    pause = max(MIN_PAUSE, min(MAX_PAUSE, claim.now - since))
    same = Task.objects.filter(pk=claim.task.pk, generation=claim.task.generation)
    same.update(settle_after=claim.now + pause)


def finish_failed(claim: Claim, error: Exception) -> Outcome:
    """The write stands, and the row says why it is not settled."""
    task_id = claim.task.pk
    if isinstance(error, errors.TooManyRequests | errors.NotSent):
        logger.info("Task %s is not settled: %s", task_id, error)
        finish(claim, definite=True, reason=str(error))
        is_open = isinstance(error, errors.CircuitOpen)
        kind = OutcomeKind.CIRCUIT_OPEN if is_open else OutcomeKind.RATE_LIMITED
        return Outcome(kind, retry_after=error.retry_after)
    if isinstance(error, errors.TriggerError | LeaseTooShort | NotOurEnvironment):
        logger.warning("Task %s is not settled: %s", task_id, error)
        finish(claim, definite=isinstance(error, NotOurEnvironment), reason=str(error))
        is_unanswered = isinstance(error, errors.NotReached | errors.TimedOut)
        return Outcome(OutcomeKind.UNANSWERED if is_unanswered else OutcomeKind.FAILED)
    logger.error("Task %s could not be settled", task_id, exc_info=error)
    finish(claim, definite=False, reason="Settling failed because of an error on our side. See the log.")
    return Outcome(OutcomeKind.FAILED)
