"""Idempotency keys: a POST that is sent again creates no second task, and is answered with the first.

The key is stored in the transaction that creates the task, so there is a key exactly where there is a task; a request
that failed may be sent again. A key belongs to its caller and is kept for a day.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.db import IntegrityError

from accounts.events import Actor
from core.connections import give_connections_back
from core.text import digest_of
from tasks import writes
from tasks.limits import PlanLimit, TooManyBytes
from tasks.models import Task, TaskCreation
from tasks.schedules.settling import LEASE

KEPT_FOR = timedelta(hours=24)
# Two requests with one key can only collide this often: each time one of them is refused and makes room.
MAX_TRIES = 5
POLL_INTERVAL = 0.05


class DifferentBody(Exception):
    """This Idempotency-Key was sent before with a different body. Use a new key for each new request."""


class TaskDeleted(Exception):
    """The task that this Idempotency-Key created has been deleted. Use a new key to create another one."""


class InProgress(Exception):
    """The first request with this Idempotency-Key is still in progress. Send this one again in 2 seconds."""


class KeyTaken(Exception):
    """Another request with this key was first"""


@dataclass(frozen=True)
class Key:
    caller_id: UUID
    text: str
    body_digest: str

    def store(self, task: Task, *, at: datetime) -> None:
        """In the transaction that creates the task. Raises KeyTaken."""
        mine = TaskCreation.objects.filter(caller_id=self.caller_id, key=self.text)
        mine.filter(created_at__lte=at - KEPT_FOR).delete()
        try:
            mine.create(caller_id=self.caller_id, key=self.text, body_digest=self.body_digest, task=task, created_at=at)
        except IntegrityError:
            raise KeyTaken from None

    def find_task(self, *, at: datetime) -> Task | None:
        """The task that was created with it. Raises DifferentBody or TaskDeleted."""
        made = TaskCreation.objects.filter(caller_id=self.caller_id, key=self.text, created_at__gt=at - KEPT_FOR)
        creation = made.select_related("task").first()
        if creation is None:
            return None
        if creation.body_digest != self.body_digest:
            raise DifferentBody
        if creation.task.deleted_at is not None:
            raise TaskDeleted
        return creation.task


def create_task_once(
    fields: Mapping[str, Any], key: Key, *, actor: Actor, at: datetime, within: float
) -> tuple[Task, bool]:
    """The task, and whether an earlier request created it.

    Raises what `create_task` does, DifferentBody, TaskDeleted, and InProgress when the earlier request does not end
    within `within` seconds.
    """
    until = time.monotonic() + within
    for left in reversed(range(MAX_TRIES)):
        former = key.find_task(at=at)
        while former is not None and is_in_progress(former, at=at) and time.monotonic() < until:
            give_connections_back()
            time.sleep(POLL_INTERVAL)
            former = key.find_task(at=at)
        if former is not None and is_in_progress(former, at=at):
            raise InProgress
        if former is not None:
            return former, True
        try:
            stored = partial(key.store, at=at)
            return writes.create_task(fields, actor=actor, at=at, within=within, alongside=stored), False
        except KeyTaken:
            if not left:
                raise
        except (PlanLimit, TooManyBytes):
            # Perhaps it is the task of the first request that takes the last place.
            if not left or key.find_task(at=at) is None:
                raise
    raise AssertionError("unreachable")


def is_in_progress(task: Task, *, at: datetime) -> bool:
    """Whether the request that creates it has not ended: Trigger.dev may still refuse its schedule, which removes it.

    After the lease nobody waits for a request that was killed; the task stays.
    """
    is_first = task.generation == 1 and task.synced_generation == 0 and not task.sync_error
    return is_first and at < task.created_at + LEASE


def digest_of_body(body: Mapping[str, Any]) -> str:
    """Equal for two bodies that ask for the same task, however they are formatted."""
    return digest_of(*(f"{name}={body[name]!r}" for name in sorted(body)))


def delete_expired_keys(*, at: datetime) -> None:
    TaskCreation.objects.filter(created_at__lte=at - KEPT_FOR).delete()
