"""The process's one way to Trigger.dev: one client from the settings, and the threads that ask it.

A request waits for an answer until its deadline. A call that is still under way then goes on, so that what it was to
fill is filled for the next request.
"""

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from threading import BoundedSemaphore
from typing import Any, TypeVar

from django.conf import settings
from django.core.signals import setting_changed

from accounts import keys
from tasks.trigger import errors
from tasks.trigger.client import CONNECTIONS, TriggerClient

BEHIND_THREADS = 4
# More than this many calls behind answers are not kept waiting: they are dropped, and asked again some other time.
BEHIND_WAITING = 256

Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


@cache
def client() -> TriggerClient:
    return TriggerClient(settings.TRIGGER_API_URL, settings.TRIGGER_SECRET_KEY)


@cache
def environment() -> str:
    """Tells Trigger.dev's environments apart in the names of cache entries."""
    return keys.fingerprint(f"{settings.TRIGGER_API_URL} {settings.TRIGGER_SECRET_KEY}")


@cache
def threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=CONNECTIONS - BEHIND_THREADS, thread_name_prefix="trigger")


@cache
def threads_behind() -> ThreadPoolExecutor:
    """Threads of their own: what nobody waits for must not hold up what somebody does."""
    return ThreadPoolExecutor(max_workers=BEHIND_THREADS, thread_name_prefix="trigger-behind")


def deadline_from_now() -> float:
    """The moment, in seconds of `time.monotonic()`, by which a request that begins now must be answered."""
    return time.monotonic() + float(settings.REQUEST_DEADLINE)


def ask(call: Callable[[], Answer], *, deadline: float) -> Answer:
    """The answer of one call, or a TriggerError; at the deadline TimedOut, whatever the call is doing."""
    future = threads().submit(call)
    wait([future], timeout=max(0.0, deadline - time.monotonic()))
    if not future.done():
        future.cancel()
        raise errors.TimedOut("the request's time was up")
    return future.result()


def ask_all(calls: Mapping[Key, Callable[[], Answer]], *, deadline: float) -> dict[Key, Answer]:
    """The answers that came until the deadline, by the key of their call. What failed is logged, and not among them."""
    futures = {key: threads().submit(call) for key, call in calls.items()}
    wait(futures.values(), timeout=max(0.0, deadline - time.monotonic()))
    answers: dict[Key, Answer] = {}
    for key, future in futures.items():
        future.cancel()
        if future.done() and not future.cancelled():
            error = future.exception()
            if error is None:
                answers[key] = future.result()
            else:
                _log(error)
    if len(answers) < len(futures):
        logger.warning("Trigger.dev left %d of %d questions open", len(futures) - len(answers), len(futures))
    return answers


def ask_behind(call: Callable[[], object]) -> None:
    """Asks behind the answer that is being made; a failure is logged and costs nobody anything."""
    if _places_behind.acquire(blocking=False):
        threads_behind().submit(call).add_done_callback(_leave_behind)


def finish() -> None:
    """Waits until every call under way has ended, and lets go of the threads and connections."""
    threads().shutdown(wait=True)
    threads_behind().shutdown(wait=True)
    client().close()
    for made in (client, environment, threads, threads_behind):
        made.cache_clear()


_places_behind = BoundedSemaphore(BEHIND_WAITING)


def _leave_behind(future: Future[Any]) -> None:
    _places_behind.release()
    error = None if future.cancelled() else future.exception()
    if error is not None:
        _log(error)


def _log(error: BaseException) -> None:
    if isinstance(error, errors.TriggerError):
        logger.warning("%s", error)
    else:
        logger.error("A question to Trigger.dev broke", exc_info=error)


def _forget_client(*, setting: str, **kwargs: object) -> None:
    if setting in ("TRIGGER_API_URL", "TRIGGER_SECRET_KEY"):
        client.cache_clear()
        environment.cache_clear()


setting_changed.connect(_forget_client)
