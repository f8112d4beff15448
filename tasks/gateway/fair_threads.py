"""Threads that serve their askers in turns: what one asks for by the thousand does not hold up what others ask for."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

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
