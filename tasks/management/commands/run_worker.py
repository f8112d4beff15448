"""One process for background work: pending tasks, runs, bulk jobs and the daily work, until it gets a SIGTERM."""

import logging
import signal
import threading
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import connections

from core.parent_process import exit_with_parent
from tasks import bulk, upkeep
from tasks.gateway import upstream
from tasks.runs.steps import poll_due
from tasks.schedules.settling import settle_pending

# Seconds.
SETTLE_INTERVAL, POLL_INTERVAL, BULK_INTERVAL, UPKEEP_INTERVAL = 5.0, 0.5, 2.0, 60.0
STOP_TIMEOUT = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """`run` does a bounded piece of work, and returns how much it did. It is repeated at once while there is more."""

    name: str
    interval: float
    run: Callable[[], int]


JOBS = (
    Job("settle", SETTLE_INTERVAL, settle_pending),
    Job("poll", POLL_INTERVAL, poll_due),
    Job("bulk", BULK_INTERVAL, bulk.step),
    Job("upkeep", UPKEEP_INTERVAL, upkeep.step),
)


class Command(BaseCommand):
    help = "Settle tasks, poll runs, do bulk jobs and the daily work in the background, until SIGTERM or Ctrl-C."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="run each job once, for tests and for cron")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["once"]:
            for job in JOBS:
                self.stdout.write(f"{job.name}: {job.run()}")
            return
        if settings.STOP_WITH_PARENT:
            exit_with_parent()
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stopper(stopping))
        threads = [threading.Thread(target=repeat, args=(job, stopping), daemon=True) for job in JOBS]
        for thread in threads:
            thread.start()
        self.stdout.write("Working until SIGTERM or Ctrl-C.")
        self.stdout.flush()
        while not stopping.wait(1.0):
            pass
        for thread in threads:
            thread.join(STOP_TIMEOUT / len(threads))
        upstream.finish()


def stopper(stopping: threading.Event) -> Callable[[int, FrameType | None], None]:
    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    return stop


def repeat(job: Job, stopping: threading.Event) -> None:
    """A job that fails is logged and tried again; it does not stop the others."""
    while not stopping.is_set():
        try:
            done = job.run()
        except Exception:
            logger.exception("The job %s failed, and is tried again", job.name)
            done = 0
        finally:
            connections.close_all()
        if not done:
            stopping.wait(job.interval)
