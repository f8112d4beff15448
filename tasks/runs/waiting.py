"""Requests that wait for a run to change: held without a database connection.

One thread of the process reads the stored status of all runs that somebody waits for. Polls bring the status, as for
any list: the runs that are waited for are watched. So no call to Trigger.dev belongs to a waiting request.
"""

import logging
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import prometheus_client
from django.conf import settings
from django.db import connections
from django.utils import timezone

from core.connections import give_connections_back
from tasks.models import Run
from tasks.runs.account_runs import follow

# Threads of a worker that are left for requests that do not wait.
THREADS_FOR_OTHERS = 16
# Seconds between two looks at the stored status; polls are seen to in every fourth.
TICK, FOLLOW_EVERY = 0.25, 4
# Requests that one look answers, as many as the pool has database connections: a run that changes may have hundreds of
# clients, and those who would wait too long for a connection would get an error.
AT_ONCE = 20
WAITING = prometheus_client.Gauge(
    "recoup_waiting_requests", "Requests that are held until a run changes.", multiprocess_mode="livesum"
)

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Waiter:
    """A request that waits until the run no longer has this status."""

    run_id: str
    status: str
    has_left: Callable[[], bool]
    is_over: threading.Event = field(default_factory=threading.Event)


class Waiting:
    """All waiting requests of this process, and the thread that answers them. It lives while somebody waits."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._lock = threading.RLock()
        self._waiters: list[Waiter] = []
        self._thread: threading.Thread | None = None
        # Set when the process is about to end: nobody is held any longer.
        self.is_ending: Callable[[], bool] = lambda: False

    def __len__(self) -> int:
        return len(self._waiters)

    def join(self, waiter: Waiter) -> bool:
        """False when no more requests may wait."""
        with self._lock:
            if len(self._waiters) >= self._places or self.is_ending():
                return False
            self._waiters.append(waiter)
            WAITING.inc()
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_looking, name="waiting", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # no more threads can be started
                    self._thread = None
                    self.leave(waiter)
                    return False
        return True

    def leave(self, waiter: Waiter) -> None:
        with self._lock:
            self._waiters.remove(waiter)
            WAITING.dec()

    def look(self) -> None:
        """Answers those whose run has another status, and those who cannot be held any longer."""
        waiters, is_ending = [one for one in [*self._waiters] if not one.is_over.is_set()], self.is_ending()
        stored = dict(Run.objects.filter(pk__in={one.run_id for one in waiters}).values_list("pk", "status"))
        over = [one for one in waiters if is_ending or stored.get(one.run_id) != one.status or one.has_left()]
        for waiter in over if is_ending else over[:AT_ONCE]:
            waiter.is_over.set()

    def finish(self) -> None:
        """Answers everybody, and waits until the thread has ended."""
        self.is_ending = lambda: True
        for waiter in [*self._waiters]:
            waiter.is_over.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    def _keep_looking(self) -> None:
        pause, looks = threading.Event(), 0
        while not self._may_end():
            try:
                if looks % FOLLOW_EVERY == 0:
                    follow({one.run_id for one in [*self._waiters]}, now=timezone.now())
                self.look()
            except Exception:
                logger.exception("Waiting requests could not be answered; it is tried again")
            finally:
                connections.close_all()
            looks += 1
            pause.wait(TICK)

    def _may_end(self) -> bool:
        """A request that comes in this moment starts another thread."""
        with self._lock:
            if self._waiters:
                return False
            self._thread = None
            return True


@cache
def waiting() -> Waiting:
    return Waiting(max(0, settings.THREADS - THREADS_FOR_OTHERS))


def wait_for_change(waiter: Waiter, *, seconds: float) -> bool:
    """Holds the request until the run changes, or for so long. False when it was not held, since too many are."""
    room = waiting()
    if not room.join(waiter):
        return False
    try:
        give_connections_back()
        waiter.is_over.wait(seconds)
    finally:
        room.leave(waiter)
    return True


def has_left(connection: socket.socket | None) -> bool:
    """Whether the client has closed its connection; nothing is read of what it may have sent.

    Not every system can tell, and a client that only ends its own side looks the same: it is answered all the same.
    """
    if connection is None or not hasattr(select, "POLLRDHUP"):
        return False
    try:
        watched = select.poll()
        watched.register(connection.fileno(), select.POLLRDHUP)
        return bool(watched.poll(0))
    except (OSError, ValueError):  # it is closed on our side
        return True
