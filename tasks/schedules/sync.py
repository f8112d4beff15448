"""What `sync_schedules` does, in which order, and its verdict."""

import logging
from dataclasses import dataclass, field
from enum import IntEnum

from django.db import Error as DatabaseError

from accounts.models import Account
from tasks import idempotency
from tasks.gateway.environment import NotOurEnvironment, check_environment
from tasks.models import Task, TaskQuerySet
from tasks.schedules import orphans
from tasks.schedules.pacing import Away, Pace
from tasks.schedules.reconciliation import Change, NothingDeployed, Reconciliation, Result, Watcher
from tasks.schedules.schedule_list import ScheduleList
from tasks.trigger.errors import TriggerError
from tasks.trigger.types import Schedule

logger = logging.getLogger(__name__)


class Status(IntEnum):
    """What the command exits with."""

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


@dataclass
class Report:
    """`problems` are about the pass as a whole. `orphans`: schedules without a task that nobody asked to delete."""

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


def run_pass(options: Options, *, pace: Pace, watcher: Watcher) -> Report:
    """Never raises for what Trigger.dev does."""
    tasks: TaskQuerySet = Task.objects.all()
    if options.account is not None:
        tasks = tasks.filter(account=options.account)
    work = Reconciliation(tasks, pace=pace, is_dry=options.is_dry, watcher=watcher)
    report = Report(tasks=tasks.living().count(), changes=work.changes, is_dry=options.is_dry)
    try:
        if not options.is_dry:
            check_environment(at=pace.now())
            idempotency.forget_old(at=pace.now())
        work.settle_pending()
        if options.full:
            listed = work.read_list()
            work.compare(listed)
            remove_surplus(listed, work, options, report)
    except (NotOurEnvironment, Away, NothingDeployed, TriggerError) as error:
        report.problems.append(explained(error))
    except DatabaseError as error:
        logger.exception("The pass ended early")
        report.problems.append(f"The database failed: {str(error).strip()}")
    return report


def remove_surplus(listed: ScheduleList, work: Reconciliation, options: Options, report: Report) -> None:
    if listed.unreadable:
        report.notes.append(
            f"Trigger.dev cannot show {listed.unreadable} of its schedules. Tasks without a listed schedule were "
            "looked at one by one; a schedule without a task may be among them."
        )
    living = {**dict(work.tasks.living().values_list("pk", "trigger_schedule_id")), **work.adopted}
    among = set(work.tasks.values_list("pk", flat=True)) if options.account else None
    found = orphans.find(listed, living, among=among)
    for schedule in found.foreign:
        report.notes.append(
            f"{schedule.id} starts the task {schedule.external_id} too. It is left alone, since its key, "
            f"{schedule.key!r}, is not ours."
        )
    doomed = found.second + (found.orphans if options.prune else [])
    if orphans.is_much(len(doomed), found.ours) and not options.yes:
        message = (
            f"Of our {found.ours} schedules {len(doomed)} would be deleted: {names(doomed)}. If that is meant: --yes."
        )
        (report.notes if options.is_dry else report.problems).append(message)
        doomed = doomed if options.is_dry else []
    orphans.delete(doomed, work)
    if found.orphans and not options.prune:
        report.orphans = [schedule.id for schedule in found.orphans]
        report.notes.append(f"No task has these schedules of ours: {names(found.orphans)}. --prune deletes them.")


def names(schedules: list[Schedule]) -> str:
    shown = [schedule.id for schedule in schedules[: orphans.MANY]]
    return ", ".join([*shown, "..."] if len(schedules) > len(shown) else shown)


def explained(error: Exception) -> str:
    if isinstance(error, Away | NothingDeployed):
        return f"{error.__doc__}: {error}."
    return f"{error}."
