"""Requests that wait for a run to change: held without a database connection, and looked for by one thread for all.

That thread has each run asked for once for all who wait for it and, where the cache is shared, for all processes. It
also sees who has left meanwhile.
"""

import logging
import select
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache as once
from functools import partial

import prometheus_client
from django.conf import settings
from django.utils import timezone

from core.connections import give_connections_back
from tasks.gateway import upstream
from tasks.gateway.budget import Payer, in_the_name_of, payer
from tasks.runs import queries
from tasks.runs.known import alone
from tasks.runs.snapshots import UNFINISHED_FOR, Snapshot
from tasks.trigger import errors

# What is left to the requests that do not wait, of the threads of a worker.
THREADS_FOR_OTHERS = 16
# How often, in seconds, the cache is looked into for those who wait; and so many looks are made once nobody does.
TICK = 0.1
IDLE_LOOKS = 300
WAITING = prometheus_client.Gauge(
    "recoup_waiting_requests", "Requests that are held until a run changes.", multiprocess_mode="livesum"
)

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Waiter:
    """One request that waits for a run to be otherwise than in this snapshot."""

    run_id: str
    seen: Snapshot
    has_left: Callable[[], bool]
    is_over: threading.Event = field(default_factory=threading.Event)
    # Who pays when it is this one's turn.
    payer: Payer | None = field(default_factory=payer.get)

    def is_answered_by(self, snapshot: Snapshot) -> bool:
        return snapshot.status != self.seen.status or snapshot.is_final


@dataclass
class WatchedRun:
    """A run that somebody waits for. `latest`: what is known of it, also where the cache does not keep it."""

    latest: Snapshot
    waiters: list[Waiter] = field(default_factory=list)
    asked_at: datetime | None = None
    turn: int = 0

    def may_be_asked_for(self, *, now: datetime) -> bool:
        """Where no answer comes, it is not asked for at each look."""
        if self.latest.is_fresh(now=now):
            return False
        return self.asked_at is None or not timedelta() <= now - self.asked_at < UNFINISHED_FOR

    def tell(self, snapshot: Snapshot | None) -> None:
        """That nothing is kept says nothing of the run: the cache may be away."""
        if snapshot is not None and snapshot.supersedes(self.latest):
            self.latest = snapshot
        self.let_go(lambda waiter: waiter.is_answered_by(self.latest))

    def let_go(self, is_over: Callable[[Waiter], bool]) -> None:
        for waiter in self.waiters:
            if is_over(waiter):
                waiter.is_over.set()

    def next_payer(self) -> Payer | None:
        """In turns: what one of them cannot pay is asked by the next."""
        self.turn += 1
        return self.waiters[self.turn % len(self.waiters)].payer


class Waiting:
    """All that wait in this process. `wake`: sees to it that somebody looks, again and again while somebody waits."""

    def __init__(self, places: int, *, wake: Callable[["Waiting"], object] = lambda room: None) -> None:
        self._places, self._wake = places, wake
        self._lock = threading.Lock()
        self._watched: dict[str, WatchedRun] = {}
        # Set when the process is about to end: nobody is held any longer.
        self.is_ending: Callable[[], bool] = lambda: False

    def __len__(self) -> int:
        with self._lock:
            return self._count()

    def _count(self) -> int:
        return sum(len(run.waiters) for run in self._watched.values())

    def join(self, waiter: Waiter) -> bool:
        """False when as many wait already as may."""
        with self._lock:
            if self._count() >= self._places or self.is_ending():
                return False
            run = self._watched.setdefault(waiter.run_id, WatchedRun(waiter.seen))
            run.waiters.append(waiter)
            run.tell(waiter.seen)
        WAITING.inc()
        try:
            self._wake(self)
        except BaseException:  # no thread could be started
            self.leave(waiter)
            raise
        return True

    def leave(self, waiter: Waiter) -> Snapshot:
        """What is known of the run by now."""
        with self._lock:
            run = self._watched[waiter.run_id]
            run.waiters.remove(waiter)
            if not run.waiters:
                del self._watched[waiter.run_id]
        WAITING.dec()
        return run.latest

    def look(self, *, now: datetime) -> None:
        """Lets those go whose wait is over, and has runs asked for that are not fresh."""
        with self._lock:
            latest = {run_id: run.latest.as_of for run_id, run in self._watched.items()}
        if not latest:
            return
        kept, is_ending, asked = queries.newer_than(latest), self.is_ending(), dict[str, Payer | None]()
        with self._lock:
            for run_id, run in self._watched.items():
                run.tell(kept.get(run_id))
                run.let_go(lambda waiter: is_ending or waiter.has_left())
                if run.may_be_asked_for(now=now):
                    run.asked_at, asked[run_id] = now, run.next_payer()
        for run_id, who in asked.items():
            self._ask(run_id, who, now=now)

    def _ask(self, run_id: str, who: Payer | None, *, now: datetime) -> None:
        question = queries.about_run(run_id, now=now)
        call = partial(alone, question, now=now, deadline=upstream.deadline_from_now)
        poll = partial(upstream.start_call, question.is_one_by, call, then=partial(self._hear, run_id))
        in_the_name_of(replace(who, is_poll=True) if who else None, poll)()

    def _hear(self, run_id: str, answer: Future[Snapshot]) -> None:
        """In the thread that asked. What goes wrong is tried again; a run that is gone will not come back."""
        error = answer.exception()
        with self._lock:
            run = self._watched.get(run_id)
            if run is not None and error is None:
                run.tell(answer.result())
            elif run is not None and isinstance(error, errors.NotFound):
                run.let_go(lambda waiter: True)


class Lookout:
    """A thread that looks as long as somebody waits, and a little longer: another one would connect to Redis anew."""

    def __init__(self, *, idle_looks: int = IDLE_LOOKS) -> None:
        self._idle_looks = idle_looks
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_over = threading.Event()

    def wake(self, room: Waiting) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._is_over.clear()
                self._thread = threading.Thread(target=self._keep_looking, args=(room,), name="waiting", daemon=True)
                self._thread.start()

    def finish(self) -> None:
        """Waits until the thread has ended."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def _keep_looking(self, room: Waiting) -> None:
        idle = 0
        while not self._is_over.wait(TICK):
            idle = 0 if len(room) else idle + 1
            if idle > self._idle_looks and self._may_end(room):
                return
            try:
                room.look(now=timezone.now())
            except Exception:
                logger.exception("Those who wait for a run could not be served; it is tried again")

    def _may_end(self, room: Waiting) -> bool:
        """Whoever has come in the last moment wakes another thread."""
        with self._lock:
            if len(room):
                return False
            self._thread = None
            return True


@once
def lookout() -> Lookout:
    return Lookout()


@once
def waiting() -> Waiting:
    return Waiting(max(0, settings.THREADS - THREADS_FOR_OTHERS), wake=lookout().wake)


def wait_for_change(waiter: Waiter, *, seconds: float) -> Snapshot | None:
    """Holds the request until the run changes, or for so long. What is known then; None when there was no place.

    The thread's database connection is given back before.
    """
    room = waiting()
    if not room.join(waiter):
        return None
    try:
        give_connections_back()
        waiter.is_over.wait(seconds)
    finally:
        latest = room.leave(waiter)
    return latest


def has_left(connection: socket.socket | None) -> bool:
    """Whether the client has closed its connection; nothing is read of what it may have sent.

    Not every system can tell, and one that only ends its own side looks alike: so it is answered all the same.
    """
    if connection is None or not hasattr(select, "POLLRDHUP"):
        return False
    try:
        watched = select.poll()
        watched.register(connection.fileno(), select.POLLRDHUP)
        return bool(watched.poll(0))
    except (OSError, ValueError):  # it is closed on our side
        return True
