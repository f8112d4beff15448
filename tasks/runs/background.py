"""Steps of polling without a worker: a request starts them in the background when something it shows is overdue.

One daemon thread per process, and at most one more round waiting. With a worker it starts only where somebody watches
again.
"""

import logging
import threading
from functools import cache

from django.db import connection, connections

from tasks.runs import worker

# Rounds without a pause, each a batch of tasks. What is still due then is polled when the next reader comes.
MAX_ROUNDS = 50
# Seconds. gunicorn kills a worker that takes longer than ten to end.
STOP_TIMEOUT = 6.0

logger = logging.getLogger(__name__)


class Steps:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_wanted = False
        self._stopping = threading.Event()

    def wake(self) -> None:
        with self._lock:
            self._is_wanted = True
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="poll-steps", daemon=True)
                self._thread.start()

    def finish(self) -> None:
        """Waits until the present round has ended."""
        with self._lock:
            self._is_wanted, thread = False, self._thread
        self._stopping.set()
        if thread is not None:
            thread.join(STOP_TIMEOUT)
        self._stopping.clear()

    def _run(self) -> None:
        try:
            while self._take():
                run_steps(self._stopping)
        finally:
            connections.close_all()

    def _take(self) -> bool:
        with self._lock:
            is_wanted, self._is_wanted = self._is_wanted, False
            if not is_wanted:
                self._thread = None
            return is_wanted


def run_steps(stopping: threading.Event | None = None) -> None:
    try:
        for _ in range(MAX_ROUNDS):
            if (stopping is not None and stopping.is_set()) or not worker.poll_due():
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
