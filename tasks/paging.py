"""A list read page by page: a cursor names the last task that was shown, and the next page begins behind it.

Whatever is created or deleted meanwhile, nothing is shown twice, and nothing is left out that stood the whole time.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.db.models import Q

from tasks.models import Task, TaskQuerySet

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
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
    text = f"{(task.created_at - EPOCH) // MICROSECOND}.{task.pk}"
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def position(text: str) -> Position:
    """Raises ValueError for what is no cursor."""
    if len(text) > LONGEST_CURSOR:
        raise ValueError("longer than any cursor")
    moment, _, task_id = urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii").partition(".")
    try:
        found = Position(EPOCH + int(moment) * MICROSECOND, UUID(task_id))
    except OverflowError as error:
        raise ValueError("no moment of the calendar") from error
    if urlsafe_b64encode(f"{moment}.{found.id}".encode()).decode().rstrip("=") != text:
        raise ValueError("not as it was given")
    return found
