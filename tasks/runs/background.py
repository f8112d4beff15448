"""Steps of polling without a worker: a request starts them in the background when something it shows is overdue.

One daemon thread per process, and at most one more round waiting. With a worker nothing is overdue, so it never starts.
"""

import logging
import threading
from functools import cache

from django.db import connection, connections

from tasks.runs import worker

# Rounds without a pause, each a batch of tasks. What is still due then is polled when the next reader comes.
MAX_ROUNDS = 50

logger = logging.getLogger(__name__)


class Steps:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_wanted = False

    def wake(self) -> None:
        with self._lock:
            self._is_wanted = True
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="poll-steps", daemon=True)
                self._thread.start()

    def finish(self) -> None:
        """Waits until the present step has ended."""
        with self._lock:
            self._is_wanted, thread = False, self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        try:
            while self._take():
                run_steps()
        finally:
            connections.close_all()

    def _take(self) -> bool:
        with self._lock:
            is_wanted, self._is_wanted = self._is_wanted, False
            if not is_wanted:
                self._thread = None
            return is_wanted


def run_steps() -> None:
    try:
        for _ in range(MAX_ROUNDS):
            if not worker.poll_due():
                return
    except Exception:
        logger.exception("A step of polling failed; the next reader starts another one")


@cache
def steps() -> Steps:
    return Steps()


def wake() -> None:
    """Inside a transaction the step runs at once: another thread would not see its rows."""
    if connection.in_atomic_block:
        run_steps()
    else:
        steps().wake()
