"""The process's one way to Trigger.dev: one client from the settings, its manners, and what is being asked of it.

A request waits for an answer until its deadline. A call that is still under way then goes on, so that what it was to
fill is filled for the next request.
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

from core import digests
from tasks.gateway.flights import Flights
from tasks.gateway.gate import Gate, trial
from tasks.trigger import errors
from tasks.trigger.client import CONNECTIONS, PROBES, Route, TriggerClient

BEHIND_THREADS = 4
# Of what the cache holds: to be raised with every change of it.
LAYOUT = 3
# With so many seconds left, a question that somebody else's deadline ended is asked once more.
WORTH_ASKING = 1.0

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
    """Tells Trigger.dev's environments apart in the names of cache entries."""
    return digests.fingerprint(f"{settings.TRIGGER_API_URL} {settings.TRIGGER_SECRET_KEY}")


def cache_name(kind: str, thing: str) -> str:
    """Another version of the code, which keeps things otherwise, has other names."""
    return f"runs:{LAYOUT}:{environment()}:{kind}:{thing}"


@cache
def flights() -> Flights:
    return Flights(threads=CONNECTIONS - BEHIND_THREADS, behind=BEHIND_THREADS, trials=len(PROBES))


def start_trial(route: Route) -> bool:
    """One call behind all answers: nobody waits for it, since Trigger.dev may still hang."""
    return flights().try_again(route, partial(probe, route))


def probe(route: Route) -> None:
    with trial(), suppress(errors.TriggerError):
        client().probe(route, deadline=deadline_from_now())


def deadline_from_now() -> float:
    """The moment, in seconds of `time.monotonic()`, by which a request that begins now must be answered."""
    return time.monotonic() + float(settings.REQUEST_DEADLINE)


def ask(call: Callable[[], Answer], *, deadline: float) -> Answer:
    """The answer of one call, or a TriggerError; at the deadline TimedOut, whatever the call is doing."""
    future = flights().ask_alone(call)
    wait([future], timeout=max(0.0, deadline - time.monotonic()))
    if not future.done():
        future.cancel()
        raise errors.TimedOut("the request's time was up")
    return future.result()


def ask_together(calls: Mapping[str, Callable[[], Answer]], *, deadline: float) -> dict[str, Answer | BaseException]:
    """What came until the deadline, by the name of the question: its answer, or what it failed with.

    Whoever asks a question that is being asked already waits for the same answer. What comes later fills the cache.
    """
    answers, joined = _wait_for(calls, deadline=deadline)
    again = {name: calls[name] for name, answer in answers.items() if _is_worth_asking(answer, name in joined)}
    if again and deadline - time.monotonic() > WORTH_ASKING:
        answers |= _wait_for(again, deadline=deadline)[0]
    failures = [answer for answer in answers.values() if isinstance(answer, BaseException)]
    failed = [error for error in failures if not isinstance(error, errors.NotFound | errors.NotSent)]
    for error in failed[:1]:
        _log(error)
    if failed:
        logger.warning("Trigger.dev left %d of %d questions open", len(failed), len(calls))
    return answers


def _is_worth_asking(answer: object, was_joined: bool) -> bool:
    """Once more: what somebody else's deadline ended, or what somebody else could not pay."""
    return isinstance(answer, errors.TimedOut) or (was_joined and isinstance(answer, errors.NotSent))


def _wait_for(
    calls: Mapping[str, Callable[[], Answer]], *, deadline: float
) -> tuple[dict[str, Answer | BaseException], set[str]]:
    """The answers, and the names of the questions that somebody else had asked already."""
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
            answers[name] = errors.TimedOut("the request's time was up")
    return answers, joined


def begin(name: str, call: Callable[[], Answer], *, then: Callable[[Future[Answer]], object]) -> None:
    """Asks for who waits elsewhere, unless it is being asked already; `then` is told the answer of either."""
    with suppress(RuntimeError):  # the process ends
        flights().ask(name, call)[0].add_done_callback(then)


def ask_behind(name: str, call: Callable[[], object]) -> None:
    """Asks behind the answer that is being made, unless it is being asked already; a failure costs nobody anything."""
    future = flights().ask_behind(name, call)
    if future is not None:
        future.add_done_callback(_log_failure)


def settle_down() -> None:
    """Waits until nothing is under way any more."""
    flights().settle_down()


def finish() -> None:
    """Waits until every call under way has ended, and lets go of the threads and connections."""
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
        logger.error("A question to Trigger.dev broke", exc_info=error)


def _forget_client(*, setting: str, **kwargs: object) -> None:
    if setting in ("TRIGGER_API_URL", "TRIGGER_SECRET_KEY"):
        for made in (client, gate, environment):
            made.cache_clear()


setting_changed.connect(_forget_client)
