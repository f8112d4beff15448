"""Steps of polling: the worker and `sync_runs` take them, and a request where something that it shows is overdue.

A step polls the lists that serve many, and a batch of what is due, all at once. Steps that requests cause run in one
thread of the process, and at most one more waits.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

from django.conf import settings
from django.db import connection, connections
from django.utils import timezone

from tasks.gateway import upstream
from tasks.runs.feeds import FeedPoller
from tasks.runs.polling import BATCH, MAX_CALL, Calls, Poller
from tasks.runs.shared import NewestPoller, SharedPoller
from tasks.runs.task_polls import TaskPoller

# Rounds without a pause, each a batch of tasks. What is still due then is polled when the next reader comes.
MAX_ROUNDS = 50
# Seconds. gunicorn kills a worker that takes longer than ten to end.
STOP_TIMEOUT = 6.0

Answer = TypeVar("Answer")
AnyCalls = TypeVar("AnyCalls", bound=Calls)

_lock = threading.Lock()
_lists: Future[None] | None = None

logger = logging.getLogger(__name__)


def database_now() -> datetime:
    """One clock for all processes. With SQLite they run on one machine."""
    if connection.vendor != "postgresql" or not settings.USE_DATABASE_CLOCK:
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (found,) = cursor.fetchone()
    return found.astimezone(UTC)


def made(kind: type[AnyCalls], *, now: Callable[[], datetime] = database_now) -> AnyCalls:
    """A poller of this kind, with the process's client."""
    return kind(upstream.client(), now, lambda: time.monotonic() + MAX_CALL)


def poll_due() -> int:
    """One step. How many accounts and tasks were due."""
    global _lists
    with _lock:
        if _lists is None or _lists.done():
            _lists = submit(read_lists)  # they can be long
    return step(made(FeedPoller)) + step(made(TaskPoller))


def step(poller: Poller[Any]) -> int:
    """Polls what is due, all at once. How many rows that were."""
    polls = [submit(poller.poll, row) for row in poller.claim()]
    for poll in polls:
        poll.result()
    return len(polls)


def read_lists() -> None:
    for read in (made(NewestPoller).poll, made(SharedPoller).poll):
        try:
            read()
        except Exception:  # accounts and tasks are polled all the same
            logger.exception("A list that serves many could not be read")


# --- Threads ---------------------------------------------------------------------------------------------------------


@cache
def threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(BATCH + 1, thread_name_prefix="poll")


def submit(call: Callable[..., Answer], *args: object) -> Future[Answer]:
    """In a thread of the pool. Inside a transaction at once: another thread would not see its rows."""
    if connection.in_atomic_block:
        done = Future[Answer]()
        done.set_result(call(*args))
        return done
    try:
        return threads().submit(with_own_connection, call, *args)
    except RuntimeError as error:  # no more threads can be started
        failed = Future[Answer]()
        failed.set_exception(error)
        return failed


def with_own_connection(call: Callable[..., Answer], *args: object) -> Answer:
    """For a thread that must not keep a database connection."""
    try:
        return call(*args)
    finally:
        connections.close_all()


# --- In the background of requests -----------------------------------------------------------------------------------


class Background:
    """One daemon thread, with a queue of one."""

    def __init__(self) -> None:
        self._queue = queue.Queue[None](1)
        self._stopping = threading.Event()
        threading.Thread(target=self._work, name="poll-steps", daemon=True).start()

    def wake(self) -> None:
        with suppress(queue.Full):
            self._queue.put_nowait(None)

    def join(self) -> None:
        """Waits until nothing is left to do."""
        self._queue.join()

    def finish(self) -> None:
        """Waits until the present round has ended. A waiting one is dropped."""
        self._stopping.set()
        with self._queue.all_tasks_done:
            has_ended = self._queue.all_tasks_done.wait_for(lambda: not self._queue.unfinished_tasks, STOP_TIMEOUT)
        if has_ended:
            self._stopping.clear()

    def _work(self) -> None:
        while True:
            self._queue.get()
            try:
                if not self._stopping.is_set():
                    with_own_connection(run_steps, self._stopping)
            except Exception:
                logger.exception("A connection could not be closed after a step of polling")
            finally:
                self._queue.task_done()


def run_steps(stopping: threading.Event | None = None) -> None:
    try:
        for _ in range(MAX_ROUNDS):
            if not poll_due() or (stopping is not None and stopping.is_set()):
                return
    except Exception:
        logger.exception("A step of polling failed; the next reader starts another one")


@cache
def background() -> Background:
    return Background()


def wake() -> None:
    """Inside a transaction the step runs at once: another thread would not see its rows."""
    if connection.in_atomic_block:
        run_steps()
        return
    try:
        background().wake()
    except RuntimeError:  # no more threads can be started
        logger.warning("No thread could be started for a step of polling")


def finish() -> None:
    """Waits until every poll of this process has ended."""
    background().finish()
    threads().shutdown()
    threads.cache_clear()
