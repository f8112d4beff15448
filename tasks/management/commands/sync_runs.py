"""Stores the runs that Trigger.dev has: one pass over due tasks, or over all tasks with --backfill."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.utils import timezone
from rich.console import Console
from rich.progress import track

from tasks.models import Task
from tasks.retention import delete_old_runs
from tasks.runs.steps import made
from tasks.runs.task_polls import TaskPoller


class Command(BaseCommand):
    help = "Poll the runs of due tasks once. Exit status: 0 all answered, 1 Trigger.dev did not answer some polls."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--backfill", action="store_true", help="read all runs that Trigger.dev still has of every task"
        )
        parser.add_argument("--delete-old", action="store_true", help="delete runs older than RUN_RETENTION_DAYS")
        parser.add_argument("--json", action="store_true", help="print the counts as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        counts = {"polled": 0, "failed": 0, "deleted": 0}
        for is_answered in self.backfill() if options["backfill"] else self.due():
            counts["polled" if is_answered else "failed"] += 1
        if options["delete_old"]:
            counts["deleted"] = delete_old_runs(before=timezone.now() - timedelta(days=settings.RUN_RETENTION_DAYS))
        printed = json.dumps(counts) if options["json"] else ", ".join(f"{counts[name]} {name}" for name in counts)
        if options["verbosity"] or options["json"] or counts["failed"]:
            self.stdout.write(printed)
        if counts["failed"]:
            sys.exit(1)

    def due(self) -> Iterable[bool]:
        """Each task at most once: a failed poll comes due again soon."""
        work, answers, seen = made(TaskPoller), list[bool](), set[object]()
        while claimed := [task for task in work.claim() if task.pk not in seen]:
            seen |= {task.pk for task in claimed}
            answers += [work.poll(task) for task in claimed]
        return answers

    def backfill(self) -> Iterable[bool]:
        work = replace(made(TaskPoller), is_backfill=True)
        tasks = Task.objects.living()
        shown = track(tasks.in_parts(), total=tasks.count(), console=Console(stderr=True), description="Reading runs")
        return [work.poll(task) for task in (shown if sys.stderr.isatty() else tasks.in_parts())]
