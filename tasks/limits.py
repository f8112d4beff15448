"""What an account may have: how many tasks, how often each fires, and how many bytes of prompts.

Called in the transaction of a write, which locks the account's row first: two writes at once must not both fit.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import BinaryField, Sum
from django.db.models.functions import Cast, Length

from accounts.models import Account
from tasks import cron
from tasks.models import Task, TaskQuerySet

# Characters of one task's texts.
MAX_TITLE, MAX_PROMPT = 500, 50_000
# So many fires tell how often a schedule fires: more than a day of one that fires every quarter of an hour.
FIRES = 100


class PlanLimit(Exception):
    """A limit of the account. `limit` names it, `numbers` say what it is and what was wanted."""

    def __init__(self, limit: str, message: str, **numbers: int) -> None:
        super().__init__(message)
        self.limit, self.numbers = limit, numbers


class TooManyBytes(Exception):
    """The prompts of an account are too long together"""


def check_new(account_id: UUID, fields: Mapping[str, Any], *, at: datetime) -> None:
    """Before a task is created. Raises PlanLimit and TooManyBytes."""
    account = locked(account_id)
    tasks = Task.objects.living().filter(account=account)
    count, maximum = tasks.count(), limit_of(account.task_limit, settings.TASK_LIMIT)
    if count >= maximum:
        message = f"This account has {count} tasks, and may have {maximum}. Delete one, or ask for a higher limit."
        raise PlanLimit("task_count", message, task_limit=maximum, current_task_count=count)
    check_cadence(account, fields["schedule"], at=at)
    check_bytes(tasks, fields["prompt"])


def check_change(task: Task, changes: Mapping[str, Any], *, at: datetime) -> None:
    """Before a task is changed: only what is changed is checked. Raises PlanLimit and TooManyBytes."""
    is_longer = len(changes.get("prompt", "").encode()) > len(task.prompt.encode())
    schedule = changes.get("schedule", task.schedule)
    if not is_longer and schedule == task.schedule:
        return
    account = locked(task.account_id)
    if schedule != task.schedule:
        check_cadence(account, schedule, at=at)
    if is_longer:
        check_bytes(Task.objects.living().filter(account=account).exclude(pk=task.pk), changes["prompt"])


def locked(account_id: UUID) -> Account:
    return Account.objects.select_for_update(no_key=True).get(pk=account_id)


def limit_of(own: int | None, default: int) -> int:
    return default if own is None else own


def check_cadence(account: Account, schedule: str, *, at: datetime) -> None:
    """By the expression alone: a day with 23 hours breaks no limit."""
    minimum = limit_of(account.min_cadence_minutes, settings.MIN_CADENCE_MINUTES)
    if not minimum:
        return
    times = cron.next_times(schedule, "UTC", after=at, count=FIRES)
    shortest = min((later - earlier for earlier, later in pairwise(times)), default=None)
    if shortest is not None and shortest < timedelta(minutes=minimum):
        minutes = int(shortest / timedelta(minutes=1))
        message = (
            f"This schedule fires every {minutes} minutes at times. This account's tasks need {minimum} in between."
        )
        raise PlanLimit("min_cadence_minutes", message, min_cadence_minutes=minimum, current_cadence_minutes=minutes)


def check_bytes(others: TaskQuerySet, prompt: str) -> None:
    total = byte_count(others) + len(prompt.encode())
    if total > settings.MAX_PROMPT_BYTES:
        raise TooManyBytes(
            f"The prompts of this account would have {total:,} bytes together, and may have "
            f"{settings.MAX_PROMPT_BYTES:,}. Shorten or delete some."
        )


def byte_count(tasks: TaskQuerySet) -> int:
    """SQLite's length() of a text counts characters, and so does PostgreSQL's."""
    if connection.vendor == "postgresql":
        length = Length("prompt", function="OCTET_LENGTH")
    else:
        length = Length(Cast("prompt", BinaryField()))
    return int(tasks.aggregate(total=Sum(length))["total"] or 0)
