"""Tasks with their stored runs and next times, for the API. A list of any length is two queries and no upstream call.

Only a task that was never polled is polled on the way, within the deadline. Reading marks tasks as watched, which
brings their polls forward; without a worker it also starts a step in the background when something shown is overdue.
"""

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from django.db import DatabaseError, transaction
from django.db.models.functions import Coalesce, Least

from core.connections import give_connections_back
from tasks import cron
from tasks.models import SharedPoll, SyncStatus, Task
from tasks.runs import due, steps
from tasks.runs.due import NEVER, RunsStatus
from tasks.runs.polling import MAX_CALL, lockable, shared_poll
from tasks.runs.task_polls import TaskPoller

# A watched task stays watched for this long; a reader renews it when less than half is left.
WATCHED_FOR = timedelta(seconds=90)
# With a worker nothing is overdue for longer than this.
OVERDUE_AFTER = timedelta(seconds=2)
# The most tasks that are polled on the way of one request.
MAX_FIRST_POLLS = 500
MAX_CACHED_TIMES = 10_000

_lock = threading.RLock()
_running: dict[UUID, Future[bool]] = {}
_cached_times: dict[tuple[str, str], tuple[datetime, tuple[datetime, ...]]] = {}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EnrichedTask:
    """`recent_runs` are JSON objects with commas between them."""

    task: Task
    recent_runs: bytes
    runs_status: RunsStatus
    runs_as_of: datetime | None
    upcoming: tuple[datetime, ...]

    @property
    def is_unavailable(self) -> bool:
        return self.runs_status is RunsStatus.UNAVAILABLE


def enrich(
    tasks: Iterable[Task], *, now: datetime, deadline: float, shared: SharedPoll | None = None
) -> list[EnrichedTask]:
    """`deadline`: seconds of `time.monotonic()`, for the first poll of tasks that were never polled.

    `shared`: read before the tasks, whose rows are then as it says or newer.
    """
    shared = shared or shared_poll()
    rows = with_first_polls(list(tasks), now=now, deadline=deadline)
    watch(rows, shared, now=now)
    return [enriched(task, shared_as_of=shared.as_of or NEVER, now=now) for task in rows]


def enriched(task: Task, *, shared_as_of: datetime, now: datetime) -> EnrichedTask:
    status, as_of = status_of(task, shared_as_of=shared_as_of, now=now)
    return EnrichedTask(task, task.recent_runs.encode(), status, as_of, upcoming_times(task, now=now))


def status_of(task: Task, *, shared_as_of: datetime, now: datetime) -> tuple[RunsStatus, datetime | None]:
    """How far the stored runs can be trusted, and until when they were certainly what Trigger.dev has."""
    if task.polled_at is None:
        return (RunsStatus.UNAVAILABLE, None) if can_have_runs(task) else (RunsStatus.FRESH, now)
    as_of = due.as_of(task.quiet_until, task.polled_at, task.unfinished_stored_at, shared_as_of) or task.polled_at
    return (RunsStatus.FRESH if due.is_fresh(as_of, now=now) else RunsStatus.STALE), min(as_of, now)


def can_have_runs(task: Task) -> bool:
    return bool(task.trigger_schedule_id or task.run_by_hand_at)


# --- Polls that a read causes ----------------------------------------------------------------------------------------


def with_first_polls(tasks: list[Task], *, now: datetime, deadline: float) -> list[Task]:
    """The tasks again, with the runs of those polled now. A first poll that has failed is not repeated at once."""
    never = [task for task in tasks if task.polled_at is None and can_have_runs(task)]
    never = [task for task in never if task.next_poll_at is None or task.next_poll_at <= now][:MAX_FIRST_POLLS]
    if not never:
        return tasks
    poll_now(never, deadline=deadline)
    ids = {task.pk for task in never}
    polled = {task.pk: task for task in Task.objects.living().to_show().filter(pk__in=ids)}
    return [polled.get(task.pk, task) for task in tasks if task.pk not in ids or task.pk in polled]


def poll_now(tasks: Sequence[Task], *, deadline: float) -> None:
    """Until the deadline. What comes later is stored all the same."""
    poller = replace(steps.made(TaskPoller), next_deadline=lambda: min(deadline, time.monotonic() + MAX_CALL))
    give_connections_back()  # the polls need them
    wait([start_poll(poller, task, deadline=deadline) for task in tasks], timeout=max(0.0, deadline - time.monotonic()))


def start_poll(poller: TaskPoller, task: Task, *, deadline: float) -> Future[bool]:
    """Readers of this process share a poll that is running."""
    with _lock:
        running = _running.get(task.pk)
        if running is None:
            running = _running[task.pk] = steps.submit(partial(poll_before, poller, task, deadline=deadline))
            running.add_done_callback(partial(end_poll, task.pk))
        return running


def end_poll(task_id: UUID, poll: Future[bool]) -> None:
    _running.pop(task_id, None)
    if error := poll.exception():
        logger.error("The first poll of task %s failed", task_id, exc_info=error)


def poll_before(poller: TaskPoller, task: Task, *, deadline: float) -> bool:
    return time.monotonic() < deadline and poller.poll(task)


def watch(tasks: Sequence[Task], shared: SharedPoll, *, now: datetime) -> None:
    """At most one write per minute for each task. A read does not fail because of it."""
    renewed = [task.pk for task in tasks if task.watched_until is None or task.watched_until < now + WATCHED_FOR / 2]
    if renewed:
        try:
            renew(renewed, now=now)
        except DatabaseError:
            logger.exception("Tasks could not be marked as watched")
    if any(is_overdue(task, shared, now=now) for task in tasks if can_have_runs(task)):
        steps.wake()


def renew(task_ids: Sequence[UUID], *, now: datetime) -> None:
    """Without waiting for rows that somebody else writes: the next read marks them."""
    next_poll = Least("next_poll_at", Coalesce("watched_poll_at", "next_poll_at"))
    with transaction.atomic():
        due_some_time = Task.objects.filter(pk__in=task_ids, next_poll_at__isnull=False)
        free = [task.pk for task in lockable(due_some_time).only("pk").order_by("pk")]
        Task.objects.filter(pk__in=free).update(watched_until=now + WATCHED_FOR, next_poll_at=next_poll)


def is_overdue(task: Task, shared: SharedPoll, *, now: datetime) -> bool:
    """Also where the shared list of unfinished runs should have been read, and was not."""
    if task.next_poll_at is not None and task.next_poll_at < now - OVERDUE_AFTER:
        return True
    if task.unfinished_stored_at is None or shared.next_at >= now - OVERDUE_AFTER:
        return False
    return status_of(task, shared_as_of=shared.as_of or NEVER, now=now)[0] is RunsStatus.STALE


# --- Next times ------------------------------------------------------------------------------------------------------


def upcoming_times(task: Task, *, now: datetime) -> tuple[datetime, ...]:
    """Ten of them. A paused task, and one whose schedule Trigger.dev refused, has none."""
    if not task.is_enabled or task.sync_status == SyncStatus.REFUSED:
        return ()
    try:
        return cached_times(task.schedule, task.timezone, now=now)
    except (cron.CronError, KeyError, ValueError) as error:
        logger.error("Task %s has a schedule that never fires: %s", task.id, error)
        return ()


def cached_times(expression: str, timezone: str, *, now: datetime) -> tuple[datetime, ...]:
    """Cached until the first of them has passed: computing them may take longer than an HTTP call."""
    since, times = _cached_times.get((expression, timezone), (now, ()))
    if not times or not since <= now < times[0]:
        times = tuple(cron.next_times(expression, timezone, after=now))
        if len(_cached_times) >= MAX_CACHED_TIMES:
            _cached_times.clear()
        _cached_times[expression, timezone] = now, times
    return times
