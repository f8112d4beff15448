"""What one pass of `sync_schedules` is asked to do, and what it reports."""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from uuid import UUID

from accounts.models import Account
from tasks.schedules.planning import Step


class Result(StrEnum):
    DONE = "done"
    PLANNED = "planned"
    FAILED = "failed"


class Status(IntEnum):
    """The exit status of the command."""

    IN_SYNC = 0
    FAILED = 1
    DRIFT = 2
    ALREADY_RUNNING = 3


@dataclass(frozen=True)
class Options:
    full: bool = False
    prune: bool = False
    is_dry: bool = False
    yes: bool = False
    account: Account | None = None


@dataclass(frozen=True)
class Change:
    """One schedule that differed from its task, and what was done. `schedule_id` where it is known."""

    result: Result
    step: Step
    task_id: UUID
    schedule_id: str | None = None
    reason: str = ""


@dataclass
class Report:
    """`problems` concern the pass as a whole. `orphans`: schedules without a task that were not to be pruned."""

    tasks: int = 0
    changes: list[Change] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    is_dry: bool = False

    @property
    def status(self) -> Status:
        results = {change.result for change in self.changes}
        if self.problems or Result.FAILED in results:
            return Status.FAILED
        if self.orphans and not self.is_dry:
            return Status.FAILED
        return Status.DRIFT if Result.PLANNED in results or self.orphans else Status.IN_SYNC


class Progress:
    """Receives the progress of a pass. The command overrides it to show it."""

    def on_change(self, change: Change) -> None:
        """Something was done, is planned, or failed."""

    def on_progress(self, activity: str, done: int, total: int) -> None:
        """`done` of `total` are finished."""
