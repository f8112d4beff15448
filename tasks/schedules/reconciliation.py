"""One pass of `sync_schedules`: Trigger.dev is made equal to the tasks, and a report says what was found and done.

The pass settles what is pending, and waits until no earlier request can still take effect. With `full` it also compares
every task with the whole list of schedules: drift is settled like any pending task, orphans are deleted.
"""

import heapq
import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.db import Error as DatabaseError
from django.db import IntegrityError, transaction

from tasks.gateway.environment import NotOurEnvironment, check_environment
from tasks.models import SyncStatus, Task, TaskQuerySet
from tasks.schedules import next_runs, orphans
from tasks.schedules.pacing import Pace, Unavailable, next_deadline
from tasks.schedules.planning import (
    DesiredSchedule,
    Step,
    can_belong,
    desired_schedule,
    find_schedule,
    plan,
    task_id_of,
)
from tasks.schedules.report import Change, Options, Progress, Report, Result
from tasks.schedules.settling import LEASE, UNSETTLED_FOR, Outcome, OutcomeKind, settle
from tasks.trigger import errors
from tasks.trigger.types import Schedule

# How many attempts a task gets in one pass, and how many of them may fail.
MAX_ATTEMPTS = 8
MAX_FAILURES = 3
PAUSE_AFTER_FAILURE = timedelta(seconds=1)
NO_TASK, DUPLICATE = "no task has it", "the task has another one"
# The lease bounds each call of an attempt, so the attempt as a whole may take as long.
ATTEMPT_WITHIN = LEASE.total_seconds()

logger = logging.getLogger(__name__)


class NothingDeployed(Exception):
    """Trigger.dev lists no schedules, though it has some: nothing may be deployed at the moment"""


def run_pass(options: Options, *, pace: Pace, progress: Progress) -> Report:
    """Never raises for what Trigger.dev does."""
    tasks: TaskQuerySet = Task.objects.all()
    if options.account is not None:
        tasks = tasks.filter(account=options.account)
    work = Reconciliation(tasks, pace=pace, is_dry=options.is_dry, progress=progress)
    report = Report(tasks=tasks.living().count(), changes=work.changes, is_dry=options.is_dry)
    try:
        if not options.is_dry:
            check_environment(at=pace.now())
        work.settle_pending()
        if options.full:
            listed = work.read_list()
            report.notes += work.notes_on_next_runs()
            work.repair_drift(listed)
            work.remove_unmatched(listed, options, report)
    except (Unavailable, NothingDeployed) as error:
        report.problems.append(f"{error.__doc__}: {error}.")
    except (NotOurEnvironment, errors.TriggerError) as error:
        report.problems.append(f"{error}.")
    except DatabaseError as error:
        logger.exception("The pass ended early")
        report.problems.append(f"The database failed: {str(error).strip()}")
    return report


@dataclass(frozen=True)
class ListedSchedules:
    """The whole list of schedules; `unreadable` is how many of them Trigger.dev cannot show."""

    schedules: list[Schedule]
    unreadable: int


@dataclass
class Reconciliation:
    """A pass over `tasks`, deleted ones included. A dry run writes nothing, neither here nor at Trigger.dev."""

    tasks: TaskQuerySet
    pace: Pace
    is_dry: bool
    progress: Progress = field(default_factory=Progress)
    changes: list[Change] = field(default_factory=list)
    # By task: the schedule without a key that it adopts. In a dry run no row says so.
    adopted: dict[UUID, str] = field(default_factory=dict)
    # By time zone: our schedules whose next run is not the one that we compute.
    other_next_runs: Counter[str] = field(default_factory=Counter)

    # --- Pending tasks -----------------------------------------------------------------------------------------------

    def settle_pending(self) -> None:
        now = self.pace.now()
        due: dict[UUID, datetime] = {}
        for task in self.tasks.unsettled().order_by("updated_at", "pk"):
            # Trigger.dev is equal to the row, but an earlier request may still take effect: settle again after that.
            is_waiting = task.synced_generation == task.generation and task.unsettled_until
            due[task.pk] = at_most(task.unsettled_until, now + UNSETTLED_FOR) if is_waiting else now
        self.process(due, "Settling")

    def process(self, due: dict[UUID, datetime], activity: str) -> None:
        if not self.is_dry:
            self.settle_all(due, activity)
            return
        for done, task_id in enumerate(due, 1):
            self.plan_for(task_id)
            self.progress.on_progress(activity, done, len(due))

    def settle_all(self, due: dict[UUID, datetime], activity: str) -> None:
        """Settles each task until it is in sync or has failed too often. Raises Unavailable."""
        queue = [(at, number, task_id) for number, (task_id, at) in enumerate(due.items())]
        heapq.heapify(queue)
        attempts, failures = Counter[UUID](), Counter[UUID]()
        while queue:
            at, number, task_id = heapq.heappop(queue)
            self.wait_until(at, tasks=len(queue) + 1)
            outcome = self.settle_one(task_id)
            attempts[task_id] += outcome.kind not in NOT_SENT
            failures[task_id] += outcome.kind in FAILURES
            is_last = attempts[task_id] >= MAX_ATTEMPTS or failures[task_id] >= MAX_FAILURES
            retry_at = self.retry_at(task_id, outcome, is_last=is_last)
            if retry_at is not None:
                heapq.heappush(queue, (retry_at, number, task_id))
            self.progress.on_progress(activity, len(due) - len(queue), len(due))

    def settle_one(self, task_id: UUID) -> Outcome:
        self.pace.leave_half_of_rate_limit(calls=3)
        outcome = settle(task_id, at=self.pace.now(), within=ATTEMPT_WITHIN)
        if outcome.kind is OutcomeKind.CIRCUIT_OPEN:
            self.pace.wait_for_circuit(outcome.retry_after)
        elif outcome.kind is OutcomeKind.RATE_LIMITED:
            self.pace.wait_for_reset(outcome.retry_after)
        elif outcome.kind is not OutcomeKind.BUSY:
            self.pace.record(is_answered=outcome.kind is not OutcomeKind.UNANSWERED)
        # The step is reported at once: it was taken, even if the task has to be settled again.
        if outcome.step not in (None, Step.NOTHING):
            row = Task.objects.filter(pk=task_id).first()
            schedule_id = row.trigger_schedule_id if row else None
            self.add(Change(Result.DONE, outcome.step or Step.NOTHING, task_id, schedule_id))
        return outcome

    def retry_at(self, task_id: UUID, outcome: Outcome, *, is_last: bool) -> datetime | None:
        """When to settle the task again; None when it is in sync, gone, or given up as failed."""
        row = Task.objects.filter(pk=task_id).first()
        if row is None or row.sync_status is SyncStatus.IN_SYNC:
            return None
        if is_last or row.sync_status is SyncStatus.REFUSED:
            reason = row.sync_error or "It is still being written, or not certain yet."
            self.add(Change(Result.FAILED, Step.NOTHING, task_id, row.trigger_schedule_id, reason))
            return None
        now = self.pace.now()
        if row.lease_until is not None and row.lease_until > now:
            return at_most(row.lease_until, now + LEASE)
        if outcome.is_settled and row.synced_generation == row.generation:
            return at_most(row.unsettled_until, now + UNSETTLED_FOR)
        return now + PAUSE_AFTER_FAILURE

    def wait_until(self, at: datetime, *, tasks: int) -> None:
        seconds = (at - self.pace.now()).total_seconds()
        if seconds > 0:
            some = "a task" if tasks == 1 else f"{tasks} tasks"
            self.pace.wait(seconds + 0.01, f"until no earlier request can change the schedule of {some}")

    # --- Drift -------------------------------------------------------------------------------------------------------

    def repair_drift(self, listed: ListedSchedules) -> None:
        """Settles every living task whose listed schedule is not the desired one."""
        by_key = {schedule.key: schedule for schedule in listed.schedules if schedule.key}
        by_id = {schedule.id: schedule for schedule in listed.schedules}
        keyless = {task_id_of(schedule): schedule for schedule in listed.schedules if schedule.key is None}
        drifted = []
        for task in self.tasks.living().in_parts():
            desired = desired_schedule(task)
            candidates = [by_key.get(desired.key), by_id.get(task.trigger_schedule_id or ""), keyless.get(task.pk)]
            schedule = next((one for one in candidates if one is not None and can_belong(desired, one)), None)
            if task.sync_status is SyncStatus.IN_SYNC and not is_as_desired(task, desired, schedule):
                drifted.append(task.pk)
                if schedule is not None and schedule.key is None:
                    self.adopt(task, schedule)
        self.process(dict.fromkeys(drifted, self.pace.now()), "Repairing")

    def adopt(self, task: Task, schedule: Schedule) -> None:
        """A schedule without a key is only found by its id, so the row has to know it."""
        self.adopted[task.pk] = schedule.id
        if self.is_dry or task.trigger_schedule_id == schedule.id:
            return
        unchanged = Task.objects.filter(pk=task.pk, trigger_schedule_id=task.trigger_schedule_id)
        with suppress(IntegrityError), transaction.atomic():
            unchanged.update(trigger_schedule_id=schedule.id)

    def plan_for(self, task_id: UUID) -> None:
        """Reads the one schedule again, since it may have changed after the list was read."""
        task = Task.objects.filter(pk=task_id).first()
        if task is None:
            return
        desired, known_id = desired_schedule(task), self.adopted.get(task_id, task.trigger_schedule_id)
        try:
            schedule = self.find(desired, known_id)
        except errors.TriggerError as error:
            self.add(Change(Result.FAILED, Step.NOTHING, task_id, known_id, str(error)))
            return
        schedule_id, step = schedule.id if schedule else None, plan(desired, schedule)
        if step is not Step.NOTHING:
            self.add(Change(Result.PLANNED, step, task_id, schedule_id))
        elif task.sync_status is not SyncStatus.IN_SYNC or not is_as_desired(task, desired, schedule):
            self.add(Change(Result.PLANNED, step, task_id, schedule_id, "the task is not marked as in sync with it"))

    def find(self, desired: DesiredSchedule, known_id: str | None) -> Schedule | None:
        client = self.pace.client
        return self.pace.call(lambda _: find_schedule(desired, known_id, client, next_deadline=next_deadline))

    # --- The whole list ----------------------------------------------------------------------------------------------

    def read_list(self) -> ListedSchedules:
        """Raises TriggerError; and NothingDeployed where an empty list cannot be true."""
        found, unreadable = dict[str, Schedule](), 0
        for page in self.pace.client.iter_schedule_pages(self.pace.call):
            found |= {schedule.id: schedule for schedule in page.schedules}
            self.compare_next_runs(page.schedules)
            unreadable += page.unreadable
            self.progress.on_progress("Reading the list", len(found), page.count)
        if not found and not unreadable:
            self.check_empty_list()
        return ListedSchedules(list(found.values()), unreadable)

    def compare_next_runs(self, schedules: Iterable[Schedule]) -> None:
        for schedule in schedules:
            task_id = task_id_of(schedule)
            shift = next_runs.shift_of(schedule, at=self.pace.now()) if task_id else None
            if task_id and shift:
                self.other_next_runs[schedule.timezone] += 1
                if not self.is_dry:
                    store_shift(task_id, schedule, shift)

    def notes_on_next_runs(self) -> list[str]:
        return [
            f"Trigger.dev computes another next run than we do for {count} schedule(s) in the time zone {zone}. Its "
            "rules for the zone may be older or newer than ours."
            for zone, count in sorted(self.other_next_runs.items())
        ]

    def check_empty_list(self) -> None:
        known = Task.objects.living().filter(trigger_schedule_id__isnull=False).order_by("-updated_at").first()
        if known is None or known.trigger_schedule_id is None:
            return
        schedule_id, client = known.trigger_schedule_id, self.pace.client
        try:
            self.pace.call(lambda deadline: client.retrieve_schedule(schedule_id, deadline=deadline))
        except errors.NotFound:
            return
        raise NothingDeployed(f"it has {schedule_id}")

    # --- Orphans and duplicates --------------------------------------------------------------------------------------

    def remove_unmatched(self, listed: ListedSchedules, options: Options, report: Report) -> None:
        """Deletes duplicates, and with `prune` orphans. The report notes what is left alone."""
        if listed.unreadable:
            report.notes.append(
                f"Trigger.dev cannot show {listed.unreadable} of its schedules. Tasks without a listed schedule were "
                "checked one by one; an orphan may be among the unreadable ones."
            )
        living = {**dict(self.tasks.living().values_list("pk", "trigger_schedule_id")), **self.adopted}
        only_tasks = set(self.tasks.values_list("pk", flat=True)) if options.account else None
        found = orphans.find_unmatched(listed.schedules, living, only_tasks=only_tasks)
        for schedule in found.foreign:
            report.notes.append(
                f"Schedule {schedule.id} also starts the task {schedule.external_id}. It is not changed, because its "
                f"deduplication key {schedule.key!r} is not ours."
            )
        to_delete = found.duplicates + (found.orphans if options.prune else [])
        if orphans.needs_confirmation(len(to_delete), found.ours) and not options.yes:
            message = (
                f"{len(to_delete)} of our {found.ours} schedules would be deleted: {orphans.shortened(to_delete)}. "
                "To delete them, add --yes."
            )
            (report.notes if options.is_dry else report.problems).append(message)
            to_delete = to_delete if options.is_dry else []
        self.delete_schedules(to_delete)
        if found.orphans and not options.prune:
            report.orphans = [schedule.id for schedule in found.orphans]
            ids = orphans.shortened(found.orphans)
            report.notes.append(f"No task has these schedules of ours: {ids}. --prune deletes them.")

    def delete_schedules(self, schedules: list[Schedule]) -> None:
        for done, schedule in enumerate(schedules, 1):
            change = self.delete_schedule(schedule)
            if change is not None:
                self.add(change)
            self.progress.on_progress("Checking again" if self.is_dry else "Deleting", done, len(schedules))

    def delete_schedule(self, schedule: Schedule) -> Change | None:
        """None when there is nothing to delete any more.

        A deleted schedule cannot be restored, so it is read again first, at Trigger.dev and in the database.
        """
        task_id, client = task_id_of(schedule), self.pace.client
        if task_id is None:
            return None
        try:
            current = self.pace.call(lambda deadline: client.retrieve_schedule(schedule.id, deadline=deadline))
            reason = self.why_unmatched(current, task_id) if task_id_of(current) == task_id else ""
            if not reason:
                return None
            if self.is_dry:
                return Change(Result.PLANNED, Step.DELETE, task_id, schedule.id, reason)
            self.pace.call(lambda deadline: client.delete_schedule(schedule.id, deadline=deadline))
            return Change(Result.DONE, Step.DELETE, task_id, schedule.id, reason)
        except errors.NotFound:
            return None
        except errors.TriggerError as error:
            return Change(Result.FAILED, Step.DELETE, task_id, schedule.id, str(error))

    def why_unmatched(self, schedule: Schedule, task_id: UUID) -> str:
        """Empty when the schedule belongs to its task, or may. It is a duplicate if the task's own one is right."""
        row = Task.objects.living().filter(pk=task_id).first()
        if row is None:
            return NO_TASK
        if schedule.key is not None or row.sync_status is not SyncStatus.IN_SYNC:
            return ""
        desired = desired_schedule(row)
        other = self.find(desired, row.trigger_schedule_id)
        is_right = other is not None and other.id != schedule.id and plan(desired, other) is Step.NOTHING
        return DUPLICATE if is_right else ""

    # --- Report ------------------------------------------------------------------------------------------------------

    def add(self, change: Change) -> None:
        self.changes.append(change)
        self.progress.on_change(change)


NOT_SENT = (OutcomeKind.RATE_LIMITED, OutcomeKind.CIRCUIT_OPEN)
FAILURES = (
    *(OutcomeKind.LEASE_LOST, OutcomeKind.INVALID, OutcomeKind.REFUSED, OutcomeKind.UNANSWERED),
    OutcomeKind.FAILED,
)


def at_most(at: datetime | None, limit: datetime) -> datetime:
    """A time further ahead than possible was written by a wrong clock."""
    return min(at or limit, limit)


def is_as_desired(task: Task, desired: DesiredSchedule, schedule: Schedule | None) -> bool:
    """Whether nothing has to be done, and the row has the id of the schedule, by which its runs are found."""
    return plan(desired, schedule) is Step.NOTHING and (schedule is None or schedule.id == task.trigger_schedule_id)


def store_shift(task_id: UUID, schedule: Schedule, shift: timedelta) -> None:
    """A task that cannot be written now is compared again in the next pass."""
    try:
        next_runs.store(task_id, schedule, shift)
    except DatabaseError:
        logger.exception("Task %s does not know yet that Trigger.dev fires it at another time", task_id)
