"""Running a task now: one run outside its schedule, stored with who requested it.

Trigger.dev does not find such a run by schedule (recorded: trigger_scheduled_task_now_get), so it carries the account
and the task as tags, and the task's row says that there are such runs.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import Max

from accounts.models import Account
from core.text import digest_of, format_timestamp
from tasks import cron
from tasks.cron import zones
from tasks.gateway import upstream
from tasks.gateway.environment import check_environment
from tasks.models import Run as StoredRun
from tasks.models import RunRequest, Task
from tasks.runs.due import RunsStatus
from tasks.runs.owners import ACCOUNT_TAG, TASK_TAG
from tasks.runs.single import SeenRun
from tasks.runs.store import encode, lock_tasks, newest_of, read_copy, store
from tasks.trigger.types import Run

# The payload of a schedule names its id, and a paused task may have no schedule.
NO_SCHEDULE = "sched_none"
NOT_CONFIRMED = (
    "Trigger.dev did not confirm that the run was started. Try again in 5 seconds. "
    "With the same Idempotency-Key, no second run is started."
)


def start(
    task: Task, *, requested_by: Account | None = None, staff: str = "", key: str = "", at: datetime, deadline: float
) -> tuple[str, bool]:
    """The id of the run, and whether an earlier request started it.

    `key` is the Idempotency-Key: the same caller, task and key give the same run. Raises a TriggerError when
    Trigger.dev did not confirm the run.
    """
    check_environment(at=at)
    request = store_request(task, requested_by=requested_by, staff=staff, key=key, at=at)
    if request.run_id is not None:
        return request.run_id, True
    run_id = upstream.client().trigger_run(
        settings.TRIGGER_TASK_IDENTIFIER,
        payload=payload(task, at=at),
        tags=tags(task),
        idempotency_key=request.digest,
        deadline=deadline,
    )
    with transaction.atomic():
        RunRequest.objects.filter(pk=request.pk).update(run_id=run_id)
        store_started(task, run_id, at=at)
    return run_id, False


def store_started(task: Task, run_id: str, *, at: datetime) -> None:
    """Trigger.dev's list may lack the run for seconds. Any answer about it replaces this copy."""
    copy = replace(read_copy(started_run(task, run_id, at=at)), updated_at=task.created_at)
    lock_tasks(Task.objects.filter(pk=task.pk))
    store([(copy, False)], task, as_of=at, shared_as_of=at, at=at)
    # A list may have brought it a moment ago, without its task.
    StoredRun.objects.filter(pk=run_id, task=None, owners__account_id=task.account_id).update(task=task)
    Task.objects.filter(pk=task.pk).update(unfinished_stored_at=at, **newest_of(task))
    Task.objects.filter(pk=task.pk).poll_soon(at=at)


def store_request(task: Task, *, requested_by: Account | None, staff: str, key: str, at: datetime) -> RunRequest:
    """A key belongs to its caller and this task: one tenant must never get the run of another."""
    who = f"account {requested_by.pk}" if requested_by else f"staff {staff}"
    digest = digest_of(who, str(task.pk), key or f"once {uuid4()}")
    values = {"task": task, "requested_by": requested_by, "requested_by_staff": staff, "requested_at": at}
    with transaction.atomic():
        requested = Task.objects.filter(pk=task.pk)
        requested.update(run_by_hand_at=at)
        requested.poll_soon(at=at)
        request, _ = RunRequest.objects.get_or_create(digest=digest, defaults=values)
    return request


def payload(task: Task, *, at: datetime) -> Mapping[str, Any]:
    """The shape of the schedule engine's payload (recorded: run_get_REAL_scheduled_second)."""
    schedule_id = task.trigger_schedule_id
    newest = StoredRun.objects.filter(task=task, is_scheduled=True).aggregate(at=Max("created_at"))["at"]
    # Schedules fire at full minutes, and the run is created within seconds.
    last_fire = newest.replace(second=0, microsecond=0) if newest else None
    return {
        "scheduleId": schedule_id or NO_SCHEDULE,
        "type": "IMPERATIVE",
        "timestamp": format_timestamp(at),
        "lastTimestamp": format_timestamp(last_fire) if last_fire else None,
        "externalId": str(task.pk),
        "timezone": zones.trigger_name(task.timezone),
        "upcoming": [format_timestamp(moment) for moment in next_times_of(task, at=at)],
    }


def next_times_of(task: Task, *, at: datetime) -> list[datetime]:
    try:
        return cron.next_times(task.schedule, task.timezone, after=at)
    except (cron.CronError, KeyError, ValueError):
        return []


def tags(task: Task) -> list[str]:
    return [f"{ACCOUNT_TAG}{task.account_id}", f"{TASK_TAG}{task.pk}"]


def just_started(task: Task, run_id: str, *, at: datetime) -> SeenRun:
    """A run that Trigger.dev has started but did not return."""
    run = started_run(task, run_id, at=at)
    return SeenRun(encode(run).encode(), run["status"], RunsStatus.STALE, at)


def started_run(task: Task, run_id: str, *, at: datetime) -> Run:
    return {
        "id": run_id,
        "status": "QUEUED",
        "taskIdentifier": settings.TRIGGER_TASK_IDENTIFIER,
        "createdAt": format_timestamp(at),
        "updatedAt": format_timestamp(at),
        "tags": tags(task),
    }
