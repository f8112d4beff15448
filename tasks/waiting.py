"""Requests that wait for a run to change: held without a database connection, and looked for by one thread for all.

That thread asks Trigger.dev behind the answers, once for all who wait for a run and, where the cache is shared, for all
processes. It also sees who has left meanwhile.
"""

import logging
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache as once
from functools import partial

import prometheus_client
from django.conf import settings
from django.core.cache import cache
from django.db import connections
from django.utils import timezone

from tasks import runs, upstream
from tasks.known import alone
from tasks.manners import Payer, payer
from tasks.snapshots import UNFINISHED_FOR, Snapshot

# What is left to the requests that do not wait, of the threads of a worker.
THREADS_FOR_OTHERS = 16
# How often, in seconds, the cache is looked into for those who wait.
TICK = 0.1
WAITING = prometheus_client.Gauge(
    "recoup_waiting_requests", "Requests that are held until a run changes.", multiprocess_mode="livesum"
)

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Waiter:
    """One request that waits for a run to have another status than this."""

    run_id: str
    status: str | None
    has_left: Callable[[], bool]
    is_over: threading.Event = field(default_factory=threading.Event)
    left: bool = False
    # Who pays for the questions in its turn.
    payer: Payer | None = field(default_factory=payer.get)

    def is_answered_by(self, snapshot: Snapshot) -> bool:
        return snapshot.status != self.status or snapshot.is_final


class Waiting:
    """All that wait in this process. Its thread lives as long as somebody does."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._waiters: dict[str, list[Waiter]] = defaultdict(list)
        self._count = 0
        self._thread: threading.Thread | None = None
        self._asked_at: dict[str, datetime] = {}
        self._turn = 0
        # Set when the process is about to end: nobody is held any longer.
        self.is_ending: Callable[[], bool] = lambda: False

    def join(self, waiter: Waiter) -> bool:
        """False when as many wait already as may."""
        with self._lock:
            if self._count >= self._places or self.is_ending():
                return False
            self._waiters[waiter.run_id].append(waiter)
            self._count += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_looking, name="waiting", daemon=True)
                self._thread.start()
        WAITING.inc()
        return True

    def leave(self, waiter: Waiter) -> None:
        with self._lock:
            waiters = self._waiters[waiter.run_id]
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[waiter.run_id]
            self._count -= 1
        WAITING.dec()

    def finish(self) -> None:
        """Waits until the thread has ended, which it does once nobody waits."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _keep_looking(self) -> None:
        while True:
            with self._lock:
                if not self._waiters:
                    self._thread = None
                    self._asked_at.clear()
                    return
                waiters = {run_id: list(waiting) for run_id, waiting in self._waiters.items()}
            try:
                self.look(waiters, now=timezone.now())
            except Exception:
                logger.exception("Those who wait for a run could not be served; it is tried again")
            time.sleep(TICK)

    def look(self, waiters: dict[str, list[Waiter]], *, now: datetime) -> None:
        """Lets those go whose run has changed or is gone; has runs asked for that are no longer fresh."""
        names = {runs.run_name(run_id): run_id for run_id in waiters}
        kept: dict[str, Snapshot] = cache.get_many(names)
        is_ending = self.is_ending()
        for name, run_id in names.items():
            snapshot = kept.get(name)
            for waiter in waiters[run_id]:
                waiter.left = waiter.has_left()
                if is_ending or waiter.left or snapshot is None or waiter.is_answered_by(snapshot):
                    waiter.is_over.set()
            if snapshot is not None and not snapshot.is_fresh(now=now) and self._may_ask(run_id, now):
                self._turn += 1
                ask_behind(name, run_id, waiters[run_id][self._turn % len(waiters[run_id])].payer, now=now)

    def _may_ask(self, run_id: str, now: datetime) -> bool:
        """Where the answer does not come, or not into the cache, it is not asked for at each look."""
        asked_at = self._asked_at.get(run_id)
        if asked_at is not None and timedelta() <= now - asked_at < UNFINISHED_FOR:
            return False
        self._asked_at[run_id] = now
        return True


@once
def waiting() -> Waiting:
    return Waiting(max(0, settings.THREADS - THREADS_FOR_OTHERS))


def ask_behind(name: str, run_id: str, who: Payer | None, *, now: datetime) -> None:
    fetch = partial(runs.fetch_run, run_id, now=now, deadline=upstream.deadline_from_now)
    ask = partial(upstream.ask_behind, name, partial(alone, name, fetch, partial(Snapshot.is_fresh, now=now)))
    upstream.in_the_name_of(who, ask)()


def wait_for_change(waiter: Waiter, *, seconds: float) -> bool:
    """Holds the request until the run changes, or for so long; False when there was no place to wait in.

    The thread's database connection is given back before.
    """
    if not waiting().join(waiter):
        return False
    try:
        give_connections_back()
        waiter.is_over.wait(seconds)
    finally:
        waiting().leave(waiter)
    return True


def give_connections_back() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


def has_left(connection: socket.socket | None) -> bool:
    """Whether the client has closed its connection; looked for without reading what it may have sent."""
    if connection is None:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
