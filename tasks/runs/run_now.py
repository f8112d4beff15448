"""Running a task now: one run outside its schedule, stored with who requested it.

Trigger.dev does not find such a run by schedule (recorded: trigger_scheduled_task_now_get), so it carries the account
and the task as tags, and the task's row says that there are such runs.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import Max

from accounts.events import Actor, record
from accounts.models import Event
from core.text import digest_of, format_timestamp
from tasks import cron
from tasks.cron import zones
from tasks.gateway import upstream
from tasks.gateway.environment import check_environment
from tasks.models import Run as StoredRun
from tasks.models import RunRequest, Task
from tasks.runs.copies import encode, read_copy
from tasks.runs.due import RunsStatus
from tasks.runs.owners import ACCOUNT_TAG, TASK_TAG
from tasks.runs.single import SeenRun
from tasks.runs.store import lock_tasks, newest_of, store
from tasks.trigger import errors
from tasks.trigger.types import Run

STARTED_RUN = "started_run"
REQUEST_TAG = "request:"
# After these there certainly is no run.
NOT_STARTED = (errors.NotSent, errors.TooManyRequests, errors.Refused)
# The payload of a schedule names its id, and a paused task may have no schedule.
NO_SCHEDULE = "sched_none"
NOT_CONFIRMED = (
    "Trigger.dev did not confirm that the run was started. Try again in 5 seconds. "
    "With the same Idempotency-Key, no second run is started."
)


def start(
    task: Task, *, actor: Actor, key: str = "", at: datetime, deadline: float, reason: str = ""
) -> tuple[str, bool]:
    """The id of the run, and whether an earlier request started it.

    `key` is the Idempotency-Key: the same caller, task and key give the same run. Raises a TriggerError when
    Trigger.dev did not confirm the run.
    """
    check_environment(at=at)
    request, is_new = store_request(task, actor=actor, key=key, at=at)
    if request.run_id is not None:
        return request.run_id, True
    run_id = None if is_new else find_started(request, deadline=deadline)
    is_replayed = run_id is not None
    try:
        run_id = run_id or trigger(task, request, at=at, deadline=deadline)
    except NOT_STARTED:
        if is_new:
            RunRequest.objects.filter(pk=request.pk, run_id=None).delete()
        raise
    request.run_id = run_id
    with transaction.atomic():
        # Two requests with one key may both get here: the second one finds that the first has stored the run.
        lock_tasks(Task.objects.filter(pk=task.pk))
        if not RunRequest.objects.filter(digest=request.digest, run_id=run_id).exists():
            after = {"run_id": run_id}
            record(STARTED_RUN, task, account_id=task.account_id, actor=actor, at=at, after=after, reason=reason)
        # Another request with this key may have deleted it, since its own call was not sent.
        RunRequest.objects.update_or_create(digest=request.digest, defaults=values_of(request))
        store_started(task, run_id, at=at)
    return run_id, is_replayed


def values_of(request: RunRequest) -> dict[str, Any]:
    names = ("task_id", "requested_by_id", "requested_by_staff", "requested_at", "run_id")
    return {name: getattr(request, name) for name in names}


def trigger(task: Task, request: RunRequest, *, at: datetime, deadline: float) -> str:
    return upstream.client().trigger_run(
        settings.TRIGGER_TASK_IDENTIFIER,
        payload=payload(task, at=at),
        tags=[*tags(task), request_tag(request)],
        idempotency_key=request.digest,
        deadline=deadline,
    )


def find_started(request: RunRequest, *, deadline: float) -> str | None:
    """The run of an earlier try that was not confirmed.

    Trigger.dev gives a run back for its idempotency key, but forgets the key when the run fails; it keeps the tag.
    """
    found = upstream.client().list_runs(tag=request_tag(request), limit=1, deadline=deadline).runs
    return found[0]["id"] if found else None


def request_tag(request: RunRequest) -> str:
    """It names the request, and nobody can guess it."""
    return f"{REQUEST_TAG}{request.digest[:40]}"


def store_started(task: Task, run_id: str, *, at: datetime) -> None:
    """Trigger.dev's list may lack the run for seconds. Any answer about it replaces this copy."""
    copy = replace(read_copy(started_run(task, run_id, at=at)), updated_at=task.created_at)
    lock_tasks(Task.objects.filter(pk=task.pk))
    store([(copy, False)], task, as_of=at, shared_as_of=at, at=at)
    # A list may have brought it a moment ago, without its task.
    StoredRun.objects.filter(pk=run_id, task=None, owners__account_id=task.account_id).update(task=task)
    Task.objects.filter(pk=task.pk).update(unfinished_stored_at=at, **newest_of(task))
    Task.objects.filter(pk=task.pk).poll_soon(at=at)


def store_request(task: Task, *, actor: Actor, key: str, at: datetime) -> tuple[RunRequest, bool]:
    """And whether it is new. A key belongs to its caller and this task: one tenant never gets the run of another."""
    is_staff = actor.kind == Event.ActorKind.STAFF
    who = f"{actor.kind} {actor.id}"
    digest = digest_of(who, str(task.pk), key or f"once {uuid4()}")
    requester = {"requested_by_staff": actor.id} if is_staff else {"requested_by_id": UUID(actor.id)}
    values = {"task": task, "requested_at": at, **requester}
    with transaction.atomic():
        requested = Task.objects.filter(pk=task.pk)
        requested.update(run_by_hand_at=at)
        requested.poll_soon(at=at)
        request, is_new = RunRequest.objects.get_or_create(digest=digest, defaults=values)
        # A retry may start the run: until it is answered, the request is open again.
        if not is_new and RunRequest.objects.filter(pk=request.pk, run_id=None).update(requested_at=at):
            request.requested_at = at
        return request, is_new


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
