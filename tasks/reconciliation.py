"""One pass that makes Trigger.dev equal to the tasks, and says what it found and did.

It settles what is not settled, waiting out what may still take effect. With the whole list of schedules at hand it also
finds drift, which is settled like everything else, and schedules of ours that no task has.
"""

import heapq
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from uuid import UUID

from tasks import schedule_list, settling
from tasks.models import SyncStatus, Task, TaskQuerySet
from tasks.pace import LONGEST_CALL, Pace
from tasks.schedule_list import ScheduleList
from tasks.schedules import Step, Wanted, look, may_be, plan, wanted_by
from tasks.settling import Outcome, settle
from tasks.trigger import errors
from tasks.trigger.types import Schedule

# How often a task is looked at in one pass, and how many of these looks may fail.
MOST_LOOKS = 8
MOST_FAILURES = 3
PAUSE_AFTER_FAILURE = timedelta(seconds=1)
# So many tasks in a row without any answer, and Trigger.dev is away.
MOST_UNANSWERED = 10
# Each call of an attempt is bounded by the lease; an attempt as a whole need not be shorter than that.
ATTEMPT_WITHIN = settling.LEASE.total_seconds()

logger = logging.getLogger(__name__)


class Away(Exception):
    """Trigger.dev does not answer"""


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

    # --- What is not settled -----------------------------------------------------------------------------------------

    def settle_pending(self) -> None:
        now = self.pace.now()
        due: dict[UUID, datetime] = {}
        for task in self.tasks.unsettled().order_by("updated_at", "pk"):
            # Only the mark is left: looking before its time would prove nothing, and renew it.
            is_waiting = task.synced_generation == task.generation and task.unsettled_until is not None
            due[task.pk] = max(now, task.unsettled_until) if is_waiting and task.unsettled_until else now
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
        unanswered = 0
        while queue:
            moment, number, task_id = heapq.heappop(queue)
            self.wait_until(moment, tasks=len(queue) + 1)
            outcome = self.settle_one(task_id)
            looks[task_id] += 1
            failures[task_id] += not outcome.settled and not outcome.is_busy
            unanswered = unanswered + 1 if outcome.is_unanswered else 0
            if unanswered >= MOST_UNANSWERED:
                raise Away(f"{unanswered} times in a row; {len(queue) + 1} tasks are left as they are")
            is_last = looks[task_id] >= MOST_LOOKS or failures[task_id] >= MOST_FAILURES
            again = self.look_again_at(task_id, outcome, is_last=is_last)
            if again is not None:
                heapq.heappush(queue, (again, number, task_id))
            self.watcher.on_progress(doing, len(due) - len(queue), len(due))

    def settle_one(self, task_id: UUID) -> Outcome:
        """Its step is a change at once: it has been taken, whatever else has to be waited for."""
        self.pace.leave_half(calls=3)
        outcome = settle(task_id, at=self.pace.now(), within=ATTEMPT_WITHIN)
        if outcome.retry_after is not None:
            self.pace.wait_for_reset(outcome.retry_after)
        if outcome.step not in (None, Step.NOTHING):
            self.note(Change(Result.DONE, outcome.step or Step.NOTHING, task_id))
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
        if row.lease_until is not None and row.lease_until > self.pace.now():
            return row.lease_until
        if outcome.settled and row.synced_generation == row.generation and row.unsettled_until:
            return row.unsettled_until
        return self.pace.now() + PAUSE_AFTER_FAILURE

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
        differing = []
        for task in self.tasks.living().iterator(chunk_size=1000):
            wanted = wanted_by(task)
            found = [by_key.get(wanted.key), by_id.get(task.trigger_schedule_id or "")]
            schedule = next((one for one in found if one is not None and may_be(wanted, one)), None)
            if task.sync_status is SyncStatus.IN_SYNC and not is_as_wanted(task, wanted, schedule):
                differing.append(task.pk)
        now = self.pace.now()
        self.deal_with(dict.fromkeys(differing, now), "Repairing")

    def plan_for(self, task_id: UUID) -> None:
        """Looks at the one schedule, since a list may be older than it."""
        task = Task.objects.filter(pk=task_id).first()
        if task is None:
            return
        wanted, known_id = wanted_by(task), task.trigger_schedule_id
        try:
            schedule = self.pace.ask(lambda _: look(wanted, known_id, self.pace.client, deadline=deadline))
        except errors.TriggerError as error:
            self.note(Change(Result.FAILED, Step.NOTHING, task_id, known_id, str(error)))
            return
        schedule_id, step = schedule.id if schedule else known_id, plan(wanted, schedule)
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


def deadline() -> float:
    return time.monotonic() + LONGEST_CALL


def is_as_wanted(task: Task, wanted: Wanted, schedule: Schedule | None) -> bool:
    """Also that the row knows the schedule's id, by which its runs are found."""
    return plan(wanted, schedule) is Step.NOTHING and (schedule is None or schedule.id == task.trigger_schedule_id)
