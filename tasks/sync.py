"""What `sync_schedules` does, in which order, and its verdict."""

from dataclasses import dataclass, field
from enum import IntEnum

from accounts.models import Account
from tasks import idempotency, surplus
from tasks.environment import NotOurEnvironment, check_environment
from tasks.models import Task, TaskQuerySet
from tasks.pace import Pace
from tasks.reconciliation import Away, Change, NothingDeployed, Reconciliation, Result, Watcher
from tasks.schedule_list import ScheduleList
from tasks.trigger.errors import TriggerError


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
    """`problems` are about the pass as a whole, `notes` are no failures."""

    tasks: int = 0
    changes: list[Change] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def status(self) -> Status:
        results = {change.result for change in self.changes}
        if self.problems or Result.FAILED in results:
            return Status.FAILED
        return Status.DRIFT if Result.PLANNED in results else Status.IN_SYNC


def run_pass(options: Options, *, pace: Pace, watcher: Watcher) -> Report:
    """Never raises for what Trigger.dev does."""
    tasks: TaskQuerySet = Task.objects.all()
    if options.account is not None:
        tasks = tasks.filter(account=options.account)
    work = Reconciliation(tasks, pace=pace, is_dry=options.is_dry, watcher=watcher)
    report = Report(tasks=tasks.living().count(), changes=work.changes)
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
    return report


def remove_surplus(listed: ScheduleList, work: Reconciliation, options: Options, report: Report) -> None:
    if listed.unreadable:
        report.notes.append(
            f"Trigger.dev cannot show {listed.unreadable} of its schedules. Tasks without a listed schedule were "
            "looked at one by one; a schedule without a task may be among them."
        )
    living = dict(work.tasks.living().values_list("pk", "trigger_schedule_id"))
    among = set(work.tasks.values_list("pk", flat=True)) if options.account else None
    found = surplus.find(listed, living, among=among)
    doomed = found.second + (found.orphans if options.prune or options.is_dry else [])
    if surplus.is_much(len(doomed), found.ours) and not options.yes:
        names = ", ".join(schedule.id for schedule in doomed[: surplus.MANY])
        message = (
            f"{len(doomed)} of our {found.ours} schedules would be deleted: {names}{', ...' * (len(doomed) > 10)}."
        )
        (report.notes if options.is_dry else report.problems).append(f"{message} If that is meant, add --yes.")
        if not options.is_dry:
            return
    surplus.delete(doomed, work)
    if found.orphans and not options.prune and not options.is_dry:
        report.problems.append(f"{len(found.orphans)} schedules of ours have no task, and fire: --prune deletes them.")


def explained(error: Exception) -> str:
    if isinstance(error, Away | NothingDeployed):
        return f"{error.__doc__}: {error}."
    return f"{error}."
