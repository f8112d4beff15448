"""Questions to Trigger.dev that are under way: whoever asks one of them waits for the same answer.

Whoever asks pays, and those who ask take turns.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from threading import BoundedSemaphore, Lock
from typing import Any, NamedTuple, TypeVar

from tasks.gateway.budget import Payer, in_the_name_of, payer

Answer = TypeVar("Answer")


class Job(NamedTuple):
    asker: Hashable
    future: Future[Any]
    call: Callable[[], Any]


class FairThreads:
    """As many jobs at once as there are threads, of one asker at most `most_for_one`; those that wait come in turns."""

    def __init__(self, count: int, name: str, *, most_for_one: int | None = None) -> None:
        self._executor = ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)
        self._most_for_one = most_for_one or count
        self._lock = threading.Lock()
        # Who has jobs waiting, the next one first.
        self._waiting: dict[Hashable, deque[Job]] = {}
        self._running: Counter[Hashable] = Counter()

    def submit(self, asker: Hashable, call: Callable[[], Answer]) -> Future[Answer]:
        """Raises RuntimeError once the threads are shut down."""
        future: Future[Answer] = Future()
        with self._lock:
            self._waiting.setdefault(asker, deque()).append(Job(asker, future, call))
        try:
            self._executor.submit(self._work)
        except RuntimeError:
            future.cancel()
            raise
        return future

    def waiting(self, asker: Hashable) -> int:
        """How many jobs of this asker no thread has taken up yet."""
        with self._lock:
            return len(self._waiting.get(asker, ()))

    def shutdown(self) -> None:
        """Waits until every job has ended."""
        self._executor.shutdown(wait=True)

    def _work(self) -> None:
        """What nobody may take up now is taken up by whoever ends a job of the same asker."""
        while (job := self._take()) is not None:
            try:
                do(job)
            finally:
                self._end(job)

    def _take(self) -> Job | None:
        with self._lock:
            for asker in self._waiting:
                if self._running[asker] < self._most_for_one:
                    break
            else:
                return None
            jobs = self._waiting.pop(asker)
            job = jobs.popleft()
            if jobs:
                self._waiting[asker] = jobs
            self._running[asker] += 1
            return job

    def _end(self, job: Job) -> None:
        with self._lock:
            self._running[job.asker] -= 1
            if not self._running[job.asker]:
                del self._running[job.asker]


def do(job: Job) -> None:
    if not job.future.set_running_or_notify_cancel():
        return
    try:
        job.future.set_result(job.call())
    except BaseException as error:
        job.future.set_exception(error)


# More than this many questions behind answers are not kept waiting: they are dropped, and asked again some other time.
BEHIND_WAITING = 256
BEHIND_WAITING_FOR_ONE = 128
# Of the threads, so that the next who asks finds one.
PART_FOR_ONE = 0.8


class Flights:
    """So many `threads` for what somebody waits for, and `behind` for what nobody does, which must not hold that up.

    What is tried has threads of its own, one for each name, so that a question which hangs keeps no other from being
    tried.
    """

    def __init__(self, *, threads: int, behind: int, trials: int) -> None:
        self.threads = FairThreads(threads, "trigger", most_for_one=int(threads * PART_FOR_ONE))
        self._threads_behind = FairThreads(behind, "trigger-behind", most_for_one=int(behind * PART_FOR_ONE))
        self._trial_threads = ThreadPoolExecutor(trials, thread_name_prefix="trigger-trial")
        self._places_behind = BoundedSemaphore(BEHIND_WAITING)
        self._lock = Lock()
        self._asked: dict[str, Future[Any]] = {}
        self._behind: dict[str, Future[Any]] = {}
        self._tried: dict[str, Future[Any]] = {}

    def ask_alone(self, call: Callable[[], Answer]) -> Future[Answer]:
        """A question that nobody else asks."""
        who = payer.get()
        return self.threads.submit(asker(who), in_the_name_of(who, call))

    def ask(self, name: str, call: Callable[[], Answer]) -> tuple[Future[Answer], bool]:
        """The question that is under way, and True; else this one. One that still waits behind answers is overtaken.

        Raises RuntimeError when the process ends.
        """
        with self._lock:
            flying, behind = under_way(self._asked, name), under_way(self._behind, name)
            if flying is None and behind is not None and behind.running():
                flying = behind
            if flying is not None:
                return flying, True
            self._asked[name] = future = self.ask_alone(call)
        future.add_done_callback(partial(self._land, self._asked, name))
        return future, False

    def ask_behind(self, name: str, call: Callable[[], Answer]) -> Future[Answer] | None:
        """Unless it is under way, or too much waits already."""
        who = payer.get()
        with self._lock:
            if under_way(self._asked, name) or under_way(self._behind, name):
                return None
            has_many = self._threads_behind.waiting(asker(who)) >= BEHIND_WAITING_FOR_ONE
            if has_many or not self._places_behind.acquire(blocking=False):
                return None
            try:
                future = self._threads_behind.submit(asker(who), in_the_name_of(who, call))
            except RuntimeError:  # the process ends
                self._places_behind.release()
                return None
            self._behind[name] = future
        future.add_done_callback(partial(self._land, self._behind, name))
        future.add_done_callback(lambda _: self._places_behind.release())
        return future

    def try_again(self, name: str, call: Callable[[], object]) -> bool:
        """False where that is being tried already."""
        with self._lock, suppress(RuntimeError):  # the process ends
            if under_way(self._tried, name) is None:
                self._tried[name] = self._trial_threads.submit(call)
                return True
        return False

    def settle_down(self) -> None:
        """Waits until nothing is under way any more."""
        while futures := list(self._under_way()):
            wait(futures)

    def finish(self) -> None:
        """Waits until everything that is under way has ended, and lets go of the threads."""
        self.threads.shutdown()
        self._threads_behind.shutdown()
        self._trial_threads.shutdown()

    def _under_way(self) -> Iterable[Future[Any]]:
        with self._lock:
            futures = [*self._asked.values(), *self._behind.values(), *self._tried.values()]
        return (future for future in futures if not future.done())

    def _land(self, flights: dict[str, Future[Any]], name: str, future: Future[Any]) -> None:
        with self._lock:
            if flights.get(name) is future:
                del flights[name]


def under_way(flights: dict[str, Future[Any]], name: str) -> Future[Any] | None:
    future = flights.get(name)
    return None if future is None or future.done() else future


def asker(who: Payer | None) -> str | None:
    """Whatever a payer asks for, and in which way, is one asker's."""
    return who.name if who is not None else None
