"""The parts of Trigger.dev's answers that we read. Runs are passed on unchanged."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NotRequired, TypedDict


class RunSchedule(TypedDict):
    id: str
    externalId: NotRequired[str]
    deduplicationKey: NotRequired[str]


class Run(TypedDict):
    id: str
    status: str
    taskIdentifier: str
    createdAt: str
    updatedAt: str
    tags: NotRequired[list[str]]
    payload: NotRequired[Any]
    schedule: NotRequired[RunSchedule]
    relatedRuns: NotRequired["dict[str, Run | list[Run] | None] | None"]


@dataclass(frozen=True)
class Schedule:
    """A schedule from any of the three shapes that Trigger.dev sends. `key` is its deduplication key.

    `next_run`: None also where Trigger.dev sends no time that can be read.
    """

    id: str
    task: str
    active: bool
    cron: str
    timezone: str
    external_id: str | None
    key: str | None
    is_declarative: bool
    next_run: datetime | None = None


@dataclass(frozen=True)
class SchedulePage:
    """`count` is the size of the whole list; `unreadable` how many schedules of this page cannot be read."""

    schedules: list[Schedule]
    count: int
    unreadable: int = 0


@dataclass(frozen=True)
class Allowance:
    """The rate limit as Trigger.dev reported it: `remaining` of `limit` calls, fully refilled after `seconds`."""

    limit: int
    remaining: int
    seconds: float


@dataclass(frozen=True)
class RunPage:
    """Newest first; `next` is the cursor of the following page."""

    runs: list[Run]
    next: str | None
