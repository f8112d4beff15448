"""Idempotency-Key: a POST that is sent again makes no second task, and is answered with the first.

A row is written in the task's own transaction, so that there is a key exactly where there is a task; what failed may be
tried again. A key is its caller's own, and is forgotten after a day.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError

from core import digests
from tasks import writes
from tasks.models import Task, TaskCreation
from tasks.schedules.settling import LEASE

KEPT_FOR = timedelta(hours=24)
# Two requests with one key can only meet so often: each time one of them is refused, and makes room.
TRIES = 5
LOOK_EVERY = 0.05


class DifferentBody(Exception):
    """This Idempotency-Key was sent before, with another body. Use a new key for each new request."""


class TaskDeleted(Exception):
    """The task that this Idempotency-Key made has been deleted. Use a new key to make another one."""


class InProgress(Exception):
    """The first request with this Idempotency-Key is still being worked on. Send this one again in 2 seconds."""


class Taken(Exception):
    """Another request with this key has come first"""


@dataclass(frozen=True)
class Key:
    caller_id: UUID
    text: str
    body_digest: str

    def keep(self, task: Task, *, at: datetime) -> None:
        """In the transaction that makes the task. Raises Taken."""
        mine = TaskCreation.objects.filter(caller_id=self.caller_id, key=self.text)
        mine.filter(created_at__lte=at - KEPT_FOR).delete()
        try:
            mine.create(caller_id=self.caller_id, key=self.text, body_digest=self.body_digest, task=task, created_at=at)
        except IntegrityError:
            raise Taken from None

    def task(self, *, at: datetime) -> Task | None:
        """The task that was made with it. Raises DifferentBody or TaskDeleted."""
        made = TaskCreation.objects.filter(caller_id=self.caller_id, key=self.text, created_at__gt=at - KEPT_FOR)
        creation = made.select_related("task").first()
        if creation is None:
            return None
        if creation.body_digest != self.body_digest:
            raise DifferentBody
        if creation.task.deleted_at is not None:
            raise TaskDeleted
        return creation.task


def create_once(fields: Mapping[str, Any], key: Key, *, at: datetime, within: float) -> tuple[Task, bool]:
    """The task, and whether it is an earlier request's.

    Raises DifferentBody, TaskDeleted, and InProgress when the earlier request does not end in time.
    """
    until = time.monotonic() + within
    for left in reversed(range(TRIES)):
        former = key.task(at=at)
        while former is not None and is_in_progress(former, at=at) and time.monotonic() < until:
            time.sleep(LOOK_EVERY)
            former = key.task(at=at)
        if former is not None and is_in_progress(former, at=at):
            raise InProgress
        if former is not None:
            return former, True
        try:
            return writes.create(fields, at=at, within=within, alongside=lambda task: key.keep(task, at=at)), False
        except Taken:
            if not left:
                raise
    raise AssertionError("unreachable")


def is_in_progress(task: Task, *, at: datetime) -> bool:
    """The request that makes it has not ended: Trigger.dev may still refuse its schedule, and it was never there.

    One that was killed leaves the task as it is, and after its lease nobody waits for it.
    """
    is_first = task.generation == 1 and task.synced_generation == 0 and not task.sync_error
    return is_first and at < task.created_at + LEASE


def digest_of_body(body: Mapping[str, Any]) -> str:
    """The same for two bodies that ask for the same task, however they are written."""
    return digests.digest_of(*(f"{name}={body[name]!r}" for name in sorted(body)))


def forget_old(*, at: datetime) -> None:
    TaskCreation.objects.filter(created_at__lte=at - KEPT_FOR).delete()
