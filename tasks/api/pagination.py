"""A list read page by page: a cursor names the last task that was shown, and the next page begins behind it.

Whatever is created or deleted meanwhile, nothing is shown twice, and nothing is left out that stood the whole time.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.db.models import Q

from core.text import as_uuid
from tasks.models import Task, TaskQuerySet

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MOMENT = re.compile(r"-?[0-9]{1,18}", re.ASCII)
LONGEST_CURSOR = 100


class Position(NamedTuple):
    created_at: datetime
    id: UUID


class Page(NamedTuple):
    """`next_cursor`: None on the last page."""

    tasks: list[Task]
    next_cursor: str | None


def read(tasks: TaskQuerySet, *, limit: int | None, after: Position | None) -> Page:
    """Newest first; without a limit all that follow."""
    if after is not None:
        later = Q(created_at=after.created_at, id__gte=after.id)
        # Written so that a database finds the place in its index.
        tasks = tasks.filter(created_at__lte=after.created_at).exclude(later)
    found = list(tasks if limit is None else tasks[: limit + 1])
    if limit is None or len(found) <= limit:
        return Page(found, None)
    return Page(found[:limit], cursor(found[limit - 1]))


def cursor(task: Task) -> str:
    return encoded((task.created_at - EPOCH) // MICROSECOND, task.pk)


def position(text: str) -> Position:
    """Raises ValueError for what no `cursor` has given."""
    decoded = urlsafe_b64decode(text[:LONGEST_CURSOR] + "=" * (-len(text) % 4)).decode("ascii")
    moment, _, task_id = decoded.partition(".")
    found = as_uuid(task_id)
    if not MOMENT.fullmatch(moment) or found is None or encoded(int(moment), found) != text:
        raise ValueError(f"{text} is no cursor")
    try:
        return Position(EPOCH + int(moment) * MICROSECOND, found)
    except OverflowError as error:
        raise ValueError(f"{text} is of no moment of the calendar") from error


def encoded(microseconds: int, task_id: UUID) -> str:
    return urlsafe_b64encode(f"{microseconds}.{task_id}".encode()).decode().rstrip("=")
