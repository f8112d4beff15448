"""Makes Trigger.dev's schedules equal to the tasks: from cron, at a terminal, or as a service."""

import json
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from types import FrameType
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone
from rich import progress
from rich.console import Console

from accounts.lookup import LookupFailed, find_account
from tasks import idempotency, upkeep
from tasks.gateway import upstream
from tasks.schedules.pacing import Pace
from tasks.schedules.planning import Step
from tasks.schedules.reconciliation import run_pass
from tasks.schedules.report import Change, Options, Progress, Report, Result, Status
from tasks.schedules.sync_lock import sync_lock

HELP = """\
Make Trigger.dev's schedules equal to the tasks: settle pending tasks, and wait until no earlier request can still
change a schedule. Exit status: 0 in sync, 1 something failed, 2 --dry-run found something to do, 3 another one is
running."""
DONE = {
    Step.NOTHING: "noted",
    Step.CREATE: "created",
    Step.REPLACE: "replaced",
    Step.ADOPT: "replaced",
    Step.ACTIVATE: "activated",
    Step.RESUME: "resumed",
    Step.DEACTIVATE: "deactivated",
    Step.PAUSE: "paused",
    Step.DELETE: "deleted",
}
# Seconds. A shorter wait gets no line in the log.
SHORT_WAIT = 2.0
MAX_PAUSE = 24 * 3600
# Ten minutes.
LOCK_PAUSE, LOCK_TRIES = 2.0, 300


class Stopped(BaseException):
    """SIGTERM ended --watch. Not an Exception, so that no handler on the way treats it as an error."""


class Command(BaseCommand):
    help = HELP
    sleep: Callable[[float], None] = staticmethod(time.sleep)
    verbosity = 1

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--full", action="store_true", help="compare every task with all of Trigger.dev's schedules, and repair"
        )
        parser.add_argument(
            "--prune",
            action="store_true",
            help="with --full: delete schedules of ours without a task; with --account, those of its deleted tasks",
        )
        parser.add_argument("--yes", action="store_true", help="delete also more than 10 schedules, or 10 %% of ours")
        parser.add_argument("--dry-run", action="store_true", help="change nothing, print what would be done")
        parser.add_argument("--account", metavar="ID|EMAIL", help="only the tasks of this account")
        parser.add_argument("--json", action="store_true", help="print one line of JSON in the end")
        parser.add_argument("--watch", type=float, metavar="SECONDS", help="repeat with this pause until stopped")

    def handle(self, *args: Any, **options: Any) -> None:
        chosen = chosen_options(options)
        self.verbosity = options["verbosity"]
        if options["watch"] is not None:
            signal.signal(signal.SIGTERM, stop)
            self.watch(chosen, pause=options["watch"], as_json=options["json"])
            return
        report = self.one_pass(chosen, as_json=options["json"])
        if report is None:
            if options["json"]:
                self.stdout.write(json.dumps({"status": Status.ALREADY_RUNNING.name.lower()}))
            raise CommandError("Another sync_schedules is running.", returncode=Status.ALREADY_RUNNING)
        if report.status:
            sys.exit(report.status)

    def watch(self, options: Options, *, pause: float, as_json: bool) -> None:
        """A pass that fails is skipped; the next one may succeed."""
        try:
            while True:
                try:
                    if self.one_pass(options, as_json=as_json) is None:
                        self.stderr.write("Another sync_schedules is running; this pass is skipped.")
                except DatabaseError as error:
                    self.stderr.write(f"The database failed during this pass: {error}")
                    connection.close()
                self.sleep(pause)
        except (KeyboardInterrupt, Stopped):
            self.stderr.write("Stopped.")

    def one_pass(self, options: Options, *, as_json: bool) -> Report | None:
        """None where another process is running one."""
        with sync_lock(self.tries(options)) as is_locked:
            if not is_locked:
                return None
            output = self.output(as_json=as_json)
            with output.shown():
                pace = Pace(upstream.client(), now=timezone.now, wait=output.wait)
                report = run_pass(options, pace=pace, progress=output)
        if not options.is_dry:
            idempotency.delete_expired_keys(at=timezone.now())
        is_whole = options.full and options.prune and options.account is None and not options.is_dry
        if is_whole and not report.problems:
            upkeep.remember_full_pass(at=timezone.now())
        self.print_report(report, options, as_json=as_json)
        return report

    def tries(self, options: Options) -> Iterator[None]:
        """A full pass waits until a small one has ended."""
        for number in range(LOCK_TRIES if options.full else 0):
            if number == 0 and self.verbosity:
                self.stderr.write("Another sync_schedules is running. Waiting for its end.")
            self.sleep(LOCK_PAUSE)
            yield

    def output(self, *, as_json: bool) -> "LineOutput":
        if as_json:
            return NoOutput(self)
        return ProgressBar(self) if self.stdout.isatty() else LineOutput(self)

    def print_report(self, report: Report, options: Options, *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(as_dict(report, options), default=str))
            return
        for text in (*report.notes, *report.problems):
            self.stderr.write(text)
        if self.verbosity == 0 and report.status is Status.IN_SYNC:
            return
        last = upkeep.state()["last_full_pass"]
        known = "" if options.full else f" The last full pass: {last}."
        self.stdout.write(f"{verdict(report)}{known}")


def chosen_options(options: dict[str, Any]) -> Options:
    if options["prune"] and not options["full"]:
        raise CommandError("--prune needs --full: only the whole list shows orphans.")
    if options["watch"] is not None and not 1 <= options["watch"] <= MAX_PAUSE:
        raise CommandError(f"--watch must be from 1 to {MAX_PAUSE} seconds, not {options['watch']:g}.")
    try:
        account = find_account(options["account"]) if options["account"] else None
    except LookupFailed as error:
        raise CommandError(str(error)) from None
    return Options(options["full"], options["prune"], options["dry_run"], options["yes"], account)


def stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped


def verdict(report: Report) -> str:
    counts = {result: sum(change.result is result for change in report.changes) for result in Result}
    words = {
        Status.IN_SYNC: "In sync",
        Status.FAILED: "Not in sync",
        Status.DRIFT: "Not in sync; nothing was changed",
    }[report.status]
    counted = ", ".join(f"{count} {result}" for result, count in counts.items() if count)
    return f"{words}: {counted_tasks(report.tasks)}{', ' if counted else ''}{counted}."


def counted_tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def as_dict(report: Report, options: Options) -> dict[str, Any]:
    return {
        "status": report.status.name.lower(),
        "dry_run": options.is_dry,
        "tasks": report.tasks,
        "changes": [asdict(change) for change in report.changes],
        "problems": report.problems,
        "notes": report.notes,
    }


def line(change: Change) -> str:
    words = {Result.DONE: DONE[change.step], Result.PLANNED: f"would {change.step}", Result.FAILED: "FAILED"}
    if change.result is Result.PLANNED and change.step is Step.NOTHING:
        words[Result.PLANNED] = "would settle"
    schedule = f"schedule {change.schedule_id}" if change.schedule_id else "the schedule"
    reason = f"  ({change.reason})" if change.reason else ""
    return f"{words[change.result]:<16} {schedule} of task {change.task_id}{reason}"


# --- Output ----------------------------------------------------------------------------------------------------------


class LineOutput(Progress):
    """For a log: a line for each change, and for each long wait."""

    def __init__(self, command: Command) -> None:
        self.stdout, self.stderr, self.sleep = command.stdout, command.stderr, command.sleep
        self.verbosity = command.verbosity

    def shown(self) -> AbstractContextManager[object]:
        return nullcontext()

    def on_change(self, change: Change) -> None:
        if self.verbosity or change.result is not Result.DONE:
            self.stdout.write(line(change))

    def wait(self, seconds: float, why: str) -> None:
        if seconds >= SHORT_WAIT and self.verbosity:
            self.stderr.write(f"Waiting {seconds:.0f} s {why}.")
        self.sleep(seconds)


class NoOutput(LineOutput):
    def on_change(self, change: Change) -> None:
        """The JSON has it."""


class ProgressBar(LineOutput):
    """For a terminal: the same lines above a progress bar."""

    def __init__(self, command: Command) -> None:
        super().__init__(command)
        columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn())
        self.progress = progress.Progress(*columns, console=Console(soft_wrap=True), transient=True)
        self.bar = self.progress.add_task("Starting", total=None)

    def shown(self) -> AbstractContextManager[object]:
        return self.progress

    def on_change(self, change: Change) -> None:
        self.progress.console.print(line(change), markup=False, highlight=False)

    def on_progress(self, activity: str, done: int, total: int) -> None:
        self.progress.update(self.bar, description=activity, completed=done, total=total)

    def wait(self, seconds: float, why: str) -> None:
        if seconds >= SHORT_WAIT:
            self.progress.update(self.bar, description=f"Waiting {seconds:.0f} s {why}")
        self.sleep(seconds)
