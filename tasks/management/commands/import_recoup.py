"""Brings over an installation of the service that this one replaces. The source is only read."""

import json
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composable, Identifier
from rich.console import Console
from rich.progress import Progress

from accounts.events import command_actor
from tasks.gateway import upstream
from tasks.importing import HERE, IMPORTED, TABLES, Importer, Report
from tasks.schedules.pacing import Pace, Unavailable
from tasks.trigger.errors import TriggerError

BATCH = 1000
TIMES = ("created_at", "updated_at", "last_used", "expires_at")


def selected(column: str) -> Composable:
    """PostgreSQL's `infinity` is no time that Python has: for an expiry it means never."""
    if column not in TIMES:
        return Identifier(column)
    return SQL("NULLIF(NULLIF({0}, 'infinity'), '-infinity') AS {0}").format(Identifier(column))


class Command(BaseCommand):
    help = "Import accounts, keys and tasks of the former service. Again changes nothing. Status 1: rows were left out."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("source", help="postgres://user:password@host/database")
        parser.add_argument("--dry-run", action="store_true", help="change nothing, and print what would be done")
        parser.add_argument("--json", action="store_true", help="print one line of JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        zones = self.read_zones()
        try:
            with psycopg.connect(options["source"], row_factory=dict_row, connect_timeout=10) as source:
                source.read_only = True
                source.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                report = self.import_from(source, zones, options)
        except psycopg.Error as error:
            # The message of a driver may hold the password.
            raise CommandError(f"The source cannot be read: {type(error).__name__}.") from None
        self.print(report, **options)
        if report.examples:
            raise SystemExit(1)

    def import_from(self, connection: Any, zones: Mapping[str, str], options: Mapping[str, Any]) -> Report:
        """A dry run does everything in one transaction, and rolls it back."""

        def batches(table: str, columns: Sequence[str]) -> Iterator[Sequence[Mapping[str, Any]]]:
            query = SQL("SELECT {} FROM {}").format(SQL(", ").join(map(selected, columns)), Identifier(table))
            try:
                with connection.cursor(name="import") as cursor:
                    cursor.execute(query)
                    while rows := cursor.fetchmany(BATCH):
                        yield rows
            except psycopg.Error as error:
                raise CommandError(f"The table {table} cannot be read: {type(error).__name__}.") from None

        console = Console(stderr=True, quiet=options["json"])
        with Progress(console=console, disable=not console.is_terminal) as progress:
            bars = {table: progress.add_task(table, total=None) for table in TABLES}
            work = Importer(batches, zones, command_actor("import_recoup"), timezone.now())
            work.on_progress = lambda table, count: progress.update(bars[table], completed=count)
            if not options["dry_run"]:
                return work.run()
            with transaction.atomic():
                report = work.run()
                transaction.set_rollback(True)
            return report

    def read_zones(self) -> dict[str, str]:
        """The time zone of each schedule, by its id: the former service keeps it only at Trigger.dev."""
        pace = Pace(upstream.client(), now=timezone.now, wait=lambda seconds, reason: time.sleep(seconds))
        try:
            pages = list(pace.client.iter_schedule_pages(pace.call))
        except (TriggerError, Unavailable) as error:
            raise CommandError(f"The time zones of the schedules cannot be read at Trigger.dev: {error}.") from None
        return {schedule.id: schedule.timezone for page in pages for schedule in page.schedules}

    def print(self, report: Report, **options: Any) -> None:
        if options["json"]:
            problems = {f"{table}: {outcome}": names for (table, outcome), names in report.examples.items()}
            counts = {table: dict(counted) for table, counted in report.counts.items()}
            self.stdout.write(json.dumps({"dry_run": options["dry_run"], "counts": counts, "examples": problems}))
            return
        would = "would be " if options["dry_run"] else ""
        for table, counted in report.counts.items():
            others = ", ".join(f"{count} {name}" for name, count in counted.items() if name not in (IMPORTED, HERE))
            line = f"{table}: {counted[IMPORTED]} {would}imported, {counted[HERE]} are here already"
            self.stdout.write(f"{line}{', left out: ' + others if others else ''}.")
        for (table, outcome), names in report.examples.items():
            self.stdout.write(f"  {table}, {outcome}: {', '.join(names)}")
