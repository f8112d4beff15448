"""One pass that makes Trigger.dev equal to the tasks, and says what it found and did.

It settles what is not settled, waiting out what may still take effect. With the whole list of schedules at hand it also
finds drift, which is settled like everything else, and schedules of ours that no task has.
"""

import heapq
import logging
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from uuid import UUID

from django.db import IntegrityError, transaction

from tasks.models import SyncStatus, Task, TaskQuerySet
from tasks.schedules import schedule_list
from tasks.schedules.pacing import LONGEST_CALL, Pace
from tasks.schedules.planning import Step, Wanted, look, may_be, plan, task_named_by, wanted_by
from tasks.schedules.schedule_list import ScheduleList
from tasks.schedules.settling import LEASE, UNSETTLED_FOR, Outcome, settle
from tasks.trigger import errors
from tasks.trigger.types import Schedule

# How often a task is looked at in one pass, and how many of these looks may fail.
MOST_LOOKS = 8
MOST_FAILURES = 3
PAUSE_AFTER_FAILURE = timedelta(seconds=1)
# Each call of an attempt is bounded by the lease; an attempt as a whole need not be shorter than that.
ATTEMPT_WITHIN = LEASE.total_seconds()

logger = logging.getLogger(__name__)


class NothingDeployed(Exception):
    """Trigger.dev lists no schedules, though it has some: nothing may be deployed at the moment"""


class Result(StrEnum):
    DONE = "done"
    PLANNED = "planned"
    FAILED = "failed"


@dataclass(frozen=True)
class Change:
    """One schedule that was not as its task wants it, and what came of it. `schedule_id` where it is known."""

    result: Result
    step: Step
    task_id: UUID
    schedule_id: str | None = None
    reason: str = ""


class Watcher:
    """Is told how a pass goes on."""

    def on_change(self, change: Change) -> None:
        """Something was done, is planned, or failed."""

    def on_progress(self, doing: str, done: int, total: int) -> None:
        """`done` of `total` are dealt with."""


@dataclass
class Reconciliation:
    """One pass over `tasks`, deleted ones included. A dry one writes nothing, here or at Trigger.dev."""

    tasks: TaskQuerySet
    pace: Pace
    is_dry: bool
    watcher: Watcher = field(default_factory=Watcher)
    changes: list[Change] = field(default_factory=list)
    # What a dry pass would write down: by task, the schedule without a key that it would adopt.
    adopted: dict[UUID, str] = field(default_factory=dict)

    # --- What is not settled -----------------------------------------------------------------------------------------

    def settle_pending(self) -> None:
        now = self.pace.now()
        due: dict[UUID, datetime] = {}
        for task in self.tasks.unsettled().order_by("updated_at", "pk"):
            # Only the mark is left: looking before its time would prove nothing, and renew it.
            is_waiting = task.synced_generation == task.generation and task.unsettled_until
            due[task.pk] = at_most(task.unsettled_until, now + UNSETTLED_FOR) if is_waiting else now
        self.deal_with(due, "Settling")

    def deal_with(self, due: dict[UUID, datetime], doing: str) -> None:
        if self.is_dry:
            for done, task_id in enumerate(due, 1):
                self.plan_for(task_id)
                self.watcher.on_progress(doing, done, len(due))
        else:
            self.settle_all(due, doing)

    def settle_all(self, due: dict[UUID, datetime], doing: str) -> None:
        """Each until it is in sync or has failed too often. Raises Away."""
        queue = [(moment, number, task_id) for number, (task_id, moment) in enumerate(due.items())]
        heapq.heapify(queue)
        looks: Counter[UUID] = Counter()
        failures: Counter[UUID] = Counter()
        while queue:
            moment, number, task_id = heapq.heappop(queue)
            self.wait_until(moment, tasks=len(queue) + 1)
            outcome = self.settle_one(task_id)
            looks[task_id] += outcome.retry_after is None
            failures[task_id] += not (outcome.settled or outcome.is_busy or outcome.retry_after is not None)
            is_last = looks[task_id] >= MOST_LOOKS or failures[task_id] >= MOST_FAILURES
            again = self.look_again_at(task_id, outcome, is_last=is_last)
            if again is not None:
                heapq.heappush(queue, (again, number, task_id))
            self.watcher.on_progress(doing, len(due) - len(queue), len(due))

    def settle_one(self, task_id: UUID) -> Outcome:
        """Its step is a change at once: it has been taken, whatever else has to be waited for."""
        self.pace.leave_half(calls=3)
        outcome = settle(task_id, at=self.pace.now(), within=ATTEMPT_WITHIN)
        if outcome.retry_after is not None and outcome.is_unanswered:
            self.pace.let_rest(outcome.retry_after)
        elif outcome.retry_after is not None:
            self.pace.wait_for_reset(outcome.retry_after)
        elif not outcome.is_busy:
            self.pace.note(is_answered=not outcome.is_unanswered)
        if outcome.step not in (None, Step.NOTHING):
            row = Task.objects.filter(pk=task_id).first()
            schedule_id = row.trigger_schedule_id if row else None
            self.note(Change(Result.DONE, outcome.step or Step.NOTHING, task_id, schedule_id))
        return outcome

    def look_again_at(self, task_id: UUID, outcome: Outcome, *, is_last: bool) -> datetime | None:
        """When the task has to be looked at once more; None when it is in sync, gone, or given up as failed."""
        row = Task.objects.filter(pk=task_id).first()
        if row is None or row.sync_status is SyncStatus.IN_SYNC:
            return None
        if is_last or row.sync_status is SyncStatus.REFUSED:
            reason = row.sync_error or "It is still being written, or not certain yet."
            self.note(Change(Result.FAILED, Step.NOTHING, task_id, row.trigger_schedule_id, reason))
            return None
        now = self.pace.now()
        if row.lease_until is not None and row.lease_until > now:
            return at_most(row.lease_until, now + LEASE)
        if outcome.settled and row.synced_generation == row.generation:
            return at_most(row.unsettled_until, now + UNSETTLED_FOR)
        return now + PAUSE_AFTER_FAILURE

    def wait_until(self, moment: datetime, *, tasks: int) -> None:
        seconds = (moment - self.pace.now()).total_seconds()
        if seconds > 0:
            some = "a task" if tasks == 1 else f"{tasks} tasks"
            self.pace.wait(seconds + 0.01, f"until nothing under way can change the schedule of {some} any more")

    # --- Drift -------------------------------------------------------------------------------------------------------

    def compare(self, listed: ScheduleList) -> None:
        """Settles every living task whose listed schedule is not what the task wants."""
        by_key = {schedule.key: schedule for schedule in listed.schedules if schedule.key}
        by_id = {schedule.id: schedule for schedule in listed.schedules}
        keyless = {task_named_by(schedule): schedule for schedule in listed.schedules if schedule.key is None}
        differing = []
        for task in self.tasks.living().iterator(chunk_size=1000):
            wanted = wanted_by(task)
            found = [by_key.get(wanted.key), by_id.get(task.trigger_schedule_id or ""), keyless.get(task.pk)]
            schedule = next((one for one in found if one is not None and may_be(wanted, one)), None)
            if task.sync_status is SyncStatus.IN_SYNC and not is_as_wanted(task, wanted, schedule):
                differing.append(task.pk)
                if schedule is not None and schedule.key is None:
                    self.adopt(task, schedule)
        now = self.pace.now()
        self.deal_with(dict.fromkeys(differing, now), "Repairing")

    def adopt(self, task: Task, schedule: Schedule) -> None:
        """A schedule without a key is only found by its id, so the row has to know it."""
        self.adopted[task.pk] = schedule.id
        if self.is_dry or task.trigger_schedule_id == schedule.id:
            return
        unchanged = Task.objects.filter(pk=task.pk, trigger_schedule_id=task.trigger_schedule_id)
        with suppress(IntegrityError), transaction.atomic():
            unchanged.update(trigger_schedule_id=schedule.id)

    def plan_for(self, task_id: UUID) -> None:
        """Looks at the one schedule, since a list may be older than it."""
        task = Task.objects.filter(pk=task_id).first()
        if task is None:
            return
        wanted, known_id = wanted_by(task), self.adopted.get(task_id, task.trigger_schedule_id)
        try:
            schedule = self.pace.ask(lambda _: look(wanted, known_id, self.pace.client, deadline=deadline))
        except errors.TriggerError as error:
            self.note(Change(Result.FAILED, Step.NOTHING, task_id, known_id, str(error)))
            return
        schedule_id, step = schedule.id if schedule else None, plan(wanted, schedule)
        if step is not Step.NOTHING:
            self.note(Change(Result.PLANNED, step, task_id, schedule_id))
        elif task.sync_status is not SyncStatus.IN_SYNC or not is_as_wanted(task, wanted, schedule):
            self.note(Change(Result.PLANNED, step, task_id, schedule_id, "the task is not marked as in sync with it"))

    # --- The whole list ----------------------------------------------------------------------------------------------

    def read_list(self) -> ScheduleList:
        """Raises TriggerError; and NothingDeployed where an empty list cannot be believed."""
        listed = schedule_list.read_all(
            self.pace.client, ask=self.pace.ask, on_page=partial(self.watcher.on_progress, "Reading the list")
        )
        if not listed.schedules and not listed.unreadable:
            self.doubt_empty_list()
        return listed

    def doubt_empty_list(self) -> None:
        known = Task.objects.living().filter(trigger_schedule_id__isnull=False).order_by("-updated_at").first()
        if known is None or known.trigger_schedule_id is None:
            return
        schedule_id = known.trigger_schedule_id
        try:
            self.pace.ask(lambda deadline: self.pace.client.retrieve_schedule(schedule_id, deadline=deadline))
        except errors.NotFound:
            return
        raise NothingDeployed(f"it has {schedule_id}")

    def note(self, change: Change) -> None:
        self.changes.append(change)
        self.watcher.on_change(change)


def at_most(moment: datetime | None, limit: datetime) -> datetime:
    """What lies further ahead than it can was written by a wrong clock."""
    return min(moment or limit, limit)


def deadline() -> float:
    return time.monotonic() + LONGEST_CALL


def is_as_wanted(task: Task, wanted: Wanted, schedule: Schedule | None) -> bool:
    """Also that the row knows the schedule's id, by which its runs are found."""
    return plan(wanted, schedule) is Step.NOTHING and (schedule is None or schedule.id == task.trigger_schedule_id)
