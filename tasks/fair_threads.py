"""Threads that serve their askers in turns: what one asks for by the thousand does not hold up what others ask for."""

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any, NamedTuple, TypeVar

Answer = TypeVar("Answer")


class Job(NamedTuple):
    future: Future[Any]
    context: Context
    call: Callable[[], Any]


class FairThreads:
    """As many jobs at once as there are threads; of those that wait, each asker's oldest in turn."""

    def __init__(self, count: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)
        self._lock = threading.Lock()
        # Who has jobs waiting, the next one first.
        self._waiting: dict[Hashable, deque[Job]] = {}

    def submit(self, asker: Hashable, call: Callable[[], Answer]) -> Future[Answer]:
        """In a copy of the present context. Raises RuntimeError once the threads are shut down."""
        future: Future[Answer] = Future()
        with self._lock:
            self._waiting.setdefault(asker, deque()).append(Job(future, copy_context(), call))
        try:
            self._executor.submit(self._do_next)
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

    def _do_next(self) -> None:
        job = self._take()
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            job.future.set_result(job.context.run(job.call))
        except BaseException as error:
            job.future.set_exception(error)

    def _take(self) -> Job:
        """There is one for each time this is called: every job has one turn of the threads."""
        with self._lock:
            asker = next(iter(self._waiting))
            jobs = self._waiting.pop(asker)
            job = jobs.popleft()
            if jobs:
                self._waiting[asker] = jobs
            return job
