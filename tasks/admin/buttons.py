"""What the buttons of a task do, each after a confirmation that can take a reason."""

from collections.abc import Callable
from typing import NamedTuple

from django.http import HttpRequest
from django.utils import timezone

from accounts.admin.base import actor_of
from tasks import writes
from tasks.gateway import upstream
from tasks.models import SyncStatus, Task
from tasks.runs import run_now
from tasks.schedules import settling

MAX_REASON = 500  # characters


class Button(NamedTuple):
    """An act on one task. `do` returns what to say."""

    title: str
    question: str
    do: Callable[[Task, HttpRequest, str], str]


def pause(task: Task, request: HttpRequest, reason: str) -> str:
    return change_enabled(task, request, reason, enabled=False)


def resume(task: Task, request: HttpRequest, reason: str) -> str:
    return change_enabled(task, request, reason, enabled=True)


def change_enabled(task: Task, request: HttpRequest, reason: str, *, enabled: bool) -> str:
    actor, at = actor_of(request), timezone.now()
    writes.update_task(task, {"enabled": enabled}, actor=actor, at=at, reason=reason)
    task.refresh_from_db()
    done = "resumed" if enabled else "paused"
    if task.sync_status is SyncStatus.IN_SYNC:
        return f"The task is {done}, also at Trigger.dev."
    return f"The task is {done} here, and not yet at Trigger.dev: {task.sync_error or 'the worker finishes it'}"


def start_run(task: Task, request: HttpRequest, reason: str) -> str:
    deadline = upstream.deadline_from_now()
    run_id, _ = run_now.start(task, actor=actor_of(request), at=timezone.now(), deadline=deadline, reason=reason)
    return f"The run {run_id} was started."


def sync(task: Task, request: HttpRequest, reason: str) -> str:
    outcome = settling.settle(task.pk, at=timezone.now())
    task.refresh_from_db()
    if outcome.is_settled:
        return "The schedule at Trigger.dev is what the task says."
    return f"Not yet in sync: {task.sync_error or 'another attempt is being made'}"


BUTTONS = {
    "pause": Button("Pause", "It stops running until somebody resumes it. Its schedule stays at Trigger.dev.", pause),
    "resume": Button("Resume", "It runs again at its next time.", resume),
    "run-now": Button("Run now", "It starts one run, outside its schedule. Runs cost money.", start_run),
    "sync-now": Button("Sync now", "It tries at once to make the schedule at Trigger.dev what the task says.", sync),
}
