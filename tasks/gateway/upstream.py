"""The process's one way to Trigger.dev: a client from the settings behind a gate, and threads for the calls.

A request waits for an answer until its deadline. A call that is still running then goes on, and fills the cache for the
next request.
"""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import cache, partial
from typing import TypeVar

from django.conf import settings
from django.core.signals import setting_changed

from core.text import fingerprint
from tasks.gateway.flights import Flights
from tasks.gateway.gate import Gate, trial
from tasks.trigger import errors
from tasks.trigger.client import CONNECTIONS, PROBES, Route, TriggerClient

BACKGROUND_THREADS = 4
# The version of the cached values: increment it with every change of their layout.
CACHE_VERSION = 3
# With this many seconds left, a call that ended with another request's deadline is repeated.
WORTH_REPEATING = 1.0

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


@cache
def client() -> TriggerClient:
    return TriggerClient(settings.TRIGGER_API_URL, settings.TRIGGER_SECRET_KEY, gate())


@cache
def gate() -> Gate:
    return Gate(environment(), start_trial=start_trial)


@cache
def environment() -> str:
    """Distinguishes Trigger.dev environments in the names of cache entries."""
    return fingerprint(f"{settings.TRIGGER_API_URL} {settings.TRIGGER_SECRET_KEY}")


def cache_name(kind: str, thing: str) -> str:
    """Another version of the cached values has other names."""
    return f"runs:{CACHE_VERSION}:{environment()}:{kind}:{thing}"


@cache
def flights() -> Flights:
    return Flights(threads=CONNECTIONS - BACKGROUND_THREADS, behind=BACKGROUND_THREADS, trials=len(PROBES))


def start_trial(route: Route) -> bool:
    """A probe in the background: no request waits for it, since Trigger.dev may still hang."""
    return flights().try_again(route, partial(probe, route))


def probe(route: Route) -> None:
    with trial(), suppress(errors.TriggerError):
        client().probe(route, deadline=deadline_from_now())


def deadline_from_now() -> float:
    """In seconds of `time.monotonic()`: when a request that starts now must be answered."""
    return time.monotonic() + float(settings.REQUEST_DEADLINE)


def wait_for_call(call: Callable[[], Answer], *, deadline: float) -> Answer:
    """The answer of one call, or its TriggerError. TimedOut at the deadline, even if the call is still running."""
    future = flights().ask_alone(call)
    wait([future], timeout=max(0.0, deadline - time.monotonic()))
    if not future.done():
        future.cancel()
        raise errors.TimedOut("the deadline of the request has passed")
    return future.result()


def wait_for_calls(calls: Mapping[str, Callable[[], Answer]], *, deadline: float) -> dict[str, Answer | BaseException]:
    """By name, the answer or the error of each call at the deadline.

    A call that is already running is not sent twice. An answer that comes later still fills the cache.
    """
    answers, joined = _wait_for(calls, deadline=deadline)
    again = {name: calls[name] for name, answer in answers.items() if _is_worth_repeating(answer, name in joined)}
    if again and deadline - time.monotonic() > WORTH_REPEATING:
        answers |= _wait_for(again, deadline=deadline)[0]
    failures = [answer for answer in answers.values() if isinstance(answer, BaseException)]
    failed = [error for error in failures if not isinstance(error, errors.NotFound | errors.NotSent)]
    for error in failed[:1]:
        _log(error)
    if failed:
        logger.warning("%d of %d calls to Trigger.dev failed", len(failed), len(calls))
    return answers


def _is_worth_repeating(answer: object, was_joined: bool) -> bool:
    """A call that another request's deadline ended, or that another account's quota did not cover."""
    return isinstance(answer, errors.TimedOut) or (was_joined and isinstance(answer, errors.NotSent))


def _wait_for(
    calls: Mapping[str, Callable[[], Answer]], *, deadline: float
) -> tuple[dict[str, Answer | BaseException], set[str]]:
    """The answers, and the names of the calls that another request had started."""
    futures, joined = dict[str, Future[Answer]](), set[str]()
    for name, call in calls.items():
        futures[name], is_joined = flights().ask(name, call)
        joined |= {name} if is_joined else set()
    wait(futures.values(), timeout=max(0.0, deadline - time.monotonic()))
    answers: dict[str, Answer | BaseException] = {}
    for name, future in futures.items():
        if future.done():
            answers[name] = future.exception() or future.result()
        else:
            answers[name] = errors.TimedOut("the deadline of the request has passed")
    return answers, joined


def start_call(name: str, call: Callable[[], Answer], *, then: Callable[[Future[Answer]], object]) -> None:
    """Starts the call unless it is running. `then` gets its result."""
    with suppress(RuntimeError):  # the process ends
        flights().ask(name, call)[0].add_done_callback(then)


def call_in_background(name: str, call: Callable[[], object]) -> None:
    """Starts the call unless it is running. No request waits for it; a failure is logged."""
    future = flights().ask_behind(name, call)
    if future is not None:
        future.add_done_callback(_log_failure)


def settle_down() -> None:
    """Waits until no call is running."""
    flights().settle_down()


def finish() -> None:
    """Waits until every call has ended, and releases threads and connections."""
    flights().finish()
    client().close()
    for made in (client, gate, environment, flights):
        made.cache_clear()


def _log_failure(future: Future[object]) -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None:
        _log(error)


def _log(error: BaseException) -> None:
    if isinstance(error, errors.NotSent):
        return
    if isinstance(error, errors.TriggerError):
        logger.warning("%s", error)
    else:
        logger.error("A call to Trigger.dev raised an unexpected error", exc_info=error)


def _forget_client(*, setting: str, **kwargs: object) -> None:
    if setting in ("TRIGGER_API_URL", "TRIGGER_SECRET_KEY"):
        for made in (client, gate, environment):
            made.cache_clear()


setting_changed.connect(_forget_client)
