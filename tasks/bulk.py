"""Bulk jobs: one change of many tasks. The worker makes it task by task, so it survives a restart and can be watched.

Celery and Procrastinate were looked at: each wants a broker or a schema of its own for what are two tables here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from uuid import UUID

from django.db import transaction
from django.db.models import Count, F, Q
from django.utils import timezone

from accounts.events import Actor, staff_actor
from tasks import limits, writes
from tasks.models import BulkJob, BulkJobTask
from tasks.schedules.settling import settle

# Tasks of one job, and tasks per step of the worker.
MAX_TASKS, STEP = 100_000, 20
INSERTED_AT_ONCE = 1000
# A worker that was killed holds its task this long.
CLAIM = timedelta(minutes=2)

Outcome = BulkJobTask.Outcome


class TooManyTasks(Exception):
    """The message names the limit"""


def create_job(
    kind: BulkJob.Kind, task_ids: Iterable[UUID], *, about: str, requested_by: str, reason: str, at: datetime
) -> BulkJob:
    """Raises TooManyTasks, and then there is no job."""
    with transaction.atomic():
        values = {"about": about[:300], "requested_by_staff": requested_by, "reason": reason, "created_at": at}
        job = BulkJob.objects.create(kind=kind, **values)
        rows = [BulkJobTask(job=job, task_id=task_id) for task_id in islice(task_ids, MAX_TASKS + 1)]
        if len(rows) > MAX_TASKS:
            raise TooManyTasks(f"A job may have {MAX_TASKS:,} tasks, and these are more. Choose fewer.")
        BulkJobTask.objects.bulk_create(rows, batch_size=INSERTED_AT_ONCE)
    return job


def step(*, now: Callable[[], datetime] = timezone.now) -> int:
    """A part of the oldest unfinished job. How many tasks were done."""
    job = BulkJob.objects.filter(finished_at=None).order_by("pk").first()
    if job is None:
        return 0
    free = Q(claimed_at=None) | Q(claimed_at__lt=now() - CLAIM)
    waiting = list(job.items.select_related("task").filter(free, outcome=Outcome.WAITING).order_by("pk")[:STEP])
    done = sum(do_one(job, item, now=now) for item in waiting)
    if not job.items.filter(outcome=Outcome.WAITING).exists():
        BulkJob.objects.filter(pk=job.pk, finished_at=None).update(finished_at=now())
    return done


def do_one(job: BulkJob, item: BulkJobTask, *, now: Callable[[], datetime]) -> bool:
    """False where another worker has the task."""
    at, mine = now(), BulkJobTask.objects.filter(pk=item.pk, outcome=Outcome.WAITING)
    if not mine.filter(Q(claimed_at=None) | Q(claimed_at__lt=at - CLAIM)).update(claimed_at=at):
        return False
    outcome, message = ACTS[BulkJob.Kind(job.kind)](job, item, at)
    mine.update(outcome=outcome, message=message)
    return True


def pause(job: BulkJob, item: BulkJobTask, at: datetime) -> tuple[Outcome, str]:
    return change(job, item, at, enabled=False)


def resume(job: BulkJob, item: BulkJobTask, at: datetime) -> tuple[Outcome, str]:
    return change(job, item, at, enabled=True)


def change(job: BulkJob, item: BulkJobTask, at: datetime, *, enabled: bool) -> tuple[Outcome, str]:
    """The outcome is stored with the change: a worker may be killed before Trigger.dev has answered."""
    task, done = item.task, partial(BulkJobTask.objects.filter(pk=item.pk).update, outcome=Outcome.DONE)
    if task.is_enabled == enabled and task.deleted_at is None:
        return Outcome.UNCHANGED, ""
    try:
        changes = {"enabled": enabled}
        writes.update_task(task, changes, actor=actor_of(job), at=at, reason=job.reason, alongside=done)
    except writes.TaskGone:
        return Outcome.FAILED, "It was deleted."
    except (limits.PlanLimit, limits.TooManyBytes) as limit:
        return Outcome.FAILED, str(limit)
    return Outcome.DONE, ""


def sync(job: BulkJob, item: BulkJobTask, at: datetime) -> tuple[Outcome, str]:
    task = item.task
    if settle(task.pk, at=at).is_settled:
        return Outcome.DONE, ""
    task.refresh_from_db(fields=["sync_error"])
    return Outcome.FAILED, task.sync_error or "Another attempt is being made."


ACTS: dict[BulkJob.Kind, Callable[[BulkJob, BulkJobTask, datetime], tuple[Outcome, str]]] = {
    BulkJob.Kind.PAUSE: pause,
    BulkJob.Kind.RESUME: resume,
    BulkJob.Kind.SYNC: sync,
}


def delete_old_jobs(*, before: datetime) -> int:
    """Finished ones, with what they did to each task."""
    old = BulkJob.objects.filter(finished_at__lt=before)
    count = old.count()
    BulkJobTask.objects.filter(job__in=old).delete()
    old.delete()
    return count


def actor_of(job: BulkJob) -> Actor:
    return staff_actor(job.requested_by_staff)


@dataclass(frozen=True)
class Progress:
    """Counts of tasks now. `in_sync`: what Trigger.dev is known to hold, of the tasks that were done or unchanged."""

    total: int
    waiting: int
    done: int
    unchanged: int
    failed: int
    in_sync: int

    def __str__(self) -> str:
        finished = self.total - self.waiting
        reached = self.done + self.unchanged
        unchanged = f", {self.unchanged} were so already" if self.unchanged else ""
        failed = f", {self.failed} failed" if self.failed else ""
        return (
            f"{finished} of {self.total} tasks: {self.done} done{unchanged}{failed}. "
            f"{self.in_sync} of {reached} are so at Trigger.dev too."
        )


def progress_of(job: BulkJob) -> Progress:
    counts = {name: Count("pk", filter=Q(outcome=name)) for name in Outcome.values}
    reached = Q(outcome__in=(Outcome.DONE, Outcome.UNCHANGED), task__is_settled=True, task__deleted_at=None)
    in_sync = Count("pk", filter=reached & ~refused() & WANTED[BulkJob.Kind(job.kind)])
    found = job.items.aggregate(total=Count("pk"), in_sync=in_sync, **counts)
    return Progress(**found)


# What a task must be by now to count: somebody may have changed it since.
PAUSED = Q(task__enabled=False)
WANTED = {BulkJob.Kind.PAUSE: PAUSED, BulkJob.Kind.RESUME: ~PAUSED, BulkJob.Kind.SYNC: Q()}


def refused() -> Q:
    return Q(task__refused_generation__isnull=False, task__refused_generation=F("task__generation"))
