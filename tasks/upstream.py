"""The process's one way to Trigger.dev: one client from the settings, its manners, and the threads that ask it.

A request waits for an answer until its deadline. A call that is still under way then goes on, so that what it was to
fill is filled for the next request. Whoever asks pays, and those who ask take turns.
"""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache, partial
from threading import BoundedSemaphore, Lock
from typing import Any, TypeVar

from django.conf import settings
from django.core.signals import setting_changed

from accounts import keys
from tasks.fair_threads import FairThreads
from tasks.manners import Manners, trial
from tasks.payers import Payer, in_the_name_of, payer
from tasks.trigger import errors
from tasks.trigger.client import CONNECTIONS, PROBES, Route, TriggerClient

BEHIND_THREADS = 4
# More than this many calls behind answers are not kept waiting: they are dropped, and asked again some other time.
BEHIND_WAITING = 256
BEHIND_WAITING_FOR_ONE = 128
# Of the threads, so that the next who asks finds one.
PART_FOR_ONE = 0.8
# Of what the cache holds: to be raised with every change of it.
LAYOUT = 3
# With so many seconds left, a question that somebody else's deadline ended is asked once more.
WORTH_ASKING = 1.0

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


@cache
def client() -> TriggerClient:
    return TriggerClient(settings.TRIGGER_API_URL, settings.TRIGGER_SECRET_KEY, manners())


@cache
def manners() -> Manners:
    return Manners(environment(), start_trial=start_trial)


@cache
def environment() -> str:
    """Tells Trigger.dev's environments apart in the names of cache entries."""
    return keys.fingerprint(f"{settings.TRIGGER_API_URL} {settings.TRIGGER_SECRET_KEY}")


def cache_name(kind: str, thing: str) -> str:
    """Another version of the code, which keeps things otherwise, has other names."""
    return f"runs:{LAYOUT}:{environment()}:{kind}:{thing}"


@cache
def threads() -> FairThreads:
    count = CONNECTIONS - BEHIND_THREADS
    return FairThreads(count, "trigger", most_for_one=int(count * PART_FOR_ONE))


@cache
def threads_behind() -> FairThreads:
    """Threads of their own: what nobody waits for must not hold up what somebody does."""
    return FairThreads(BEHIND_THREADS, "trigger-behind", most_for_one=int(BEHIND_THREADS * PART_FOR_ONE))


@cache
def trial_threads() -> ThreadPoolExecutor:
    """One for each kind, so that one which hangs keeps no other from being tried."""
    return ThreadPoolExecutor(max_workers=len(PROBES), thread_name_prefix="trigger-trial")


def start_trial(route: Route) -> None:
    """One call behind all answers: nobody waits for it, since Trigger.dev may still hang."""
    with _flights_lock, suppress(RuntimeError):  # the process ends
        if _under_way(_trials, route) is None:
            _trials[route] = trial_threads().submit(try_again, route)


def try_again(route: Route) -> None:
    with trial(), suppress(errors.TriggerError):
        client().probe(route, deadline=deadline_from_now())


def deadline_from_now() -> float:
    """The moment, in seconds of `time.monotonic()`, by which a request that begins now must be answered."""
    return time.monotonic() + float(settings.REQUEST_DEADLINE)


def asker(who: Payer | None) -> str | None:
    """Whose turn it is: whatever a payer asks for, and in which way, is one's."""
    return who.name if who is not None else None


def ask(call: Callable[[], Answer], *, deadline: float) -> Answer:
    """The answer of one call, or a TriggerError; at the deadline TimedOut, whatever the call is doing."""
    who = payer.get()
    future = threads().submit(asker(who), in_the_name_of(who, call))
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
    failed = [error for error in failures if not isinstance(error, errors.NotFound | errors.NotAsked)]
    for error in failed[:1]:
        _log(error)
    if failed:
        logger.warning("Trigger.dev left %d of %d questions open", len(failed), len(calls))
    return answers


def _is_worth_asking(answer: object, was_joined: bool) -> bool:
    """Once more: what somebody else's deadline ended, or what somebody else could not pay."""
    return isinstance(answer, errors.TimedOut) or (was_joined and isinstance(answer, errors.NotAsked))


def _wait_for(
    calls: Mapping[str, Callable[[], Answer]], *, deadline: float
) -> tuple[dict[str, Answer | BaseException], set[str]]:
    """The answers, and the names of the questions that somebody else had asked already."""
    futures, joined = dict[str, Future[Answer]](), set[str]()
    for name, call in calls.items():
        futures[name], is_joined = _join(name, call)
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
        _join(name, call)[0].add_done_callback(then)


def ask_behind(name: str, call: Callable[[], object]) -> None:
    """Asks behind the answer that is being made, unless it is being asked already; a failure costs nobody anything."""
    who = payer.get()
    with _flights_lock:
        if _under_way(_flights, name) or _under_way(_behind, name):
            return
        if threads_behind().waiting(asker(who)) >= BEHIND_WAITING_FOR_ONE or not _places_behind.acquire(blocking=False):
            return
        try:
            _behind[name] = future = threads_behind().submit(asker(who), in_the_name_of(who, call))
        except RuntimeError:  # the process ends
            _places_behind.release()
            return
    future.add_done_callback(partial(_land, _behind, name))
    future.add_done_callback(_leave_behind)


def _join(name: str, call: Callable[[], Answer]) -> tuple[Future[Answer], bool]:
    """The question that is under way, or this one. One that still waits behind other answers is overtaken."""
    who = payer.get()
    with _flights_lock:
        flying = _under_way(_flights, name)
        behind = _under_way(_behind, name)
        if flying is None and behind is not None and behind.running():
            flying = behind
        if flying is not None:
            return flying, True
        _flights[name] = future = threads().submit(asker(who), in_the_name_of(who, call))
    future.add_done_callback(partial(_land, _flights, name))
    return future, False


def _under_way(flights: dict[str, Future[Any]], name: str) -> Future[Any] | None:
    future = flights.get(name)
    return None if future is None or future.done() else future


def _land(flights: dict[str, Future[Any]], name: str, future: Future[Any]) -> None:
    with _flights_lock:
        if flights.get(name) is future:
            del flights[name]


def settle_down() -> None:
    """Waits until nothing is under way any more."""
    while under_way := _all_under_way():
        wait(under_way)


def _all_under_way() -> list[Future[Any]]:
    with _flights_lock:
        futures = [*_flights.values(), *_behind.values(), *_trials.values()]
    return [future for future in futures if not future.done()]


def finish() -> None:
    """Waits until every call under way has ended, and lets go of the threads and connections."""
    threads().shutdown()
    threads_behind().shutdown()
    trial_threads().shutdown()
    client().close()
    for made in (client, manners, environment, threads, threads_behind, trial_threads):
        made.cache_clear()


_flights: dict[str, Future[Any]] = {}
_behind: dict[str, Future[Any]] = {}
_trials: dict[str, Future[Any]] = {}
_flights_lock = Lock()
_places_behind = BoundedSemaphore(BEHIND_WAITING)


def _leave_behind(future: Future[Any]) -> None:
    _places_behind.release()
    error = None if future.cancelled() else future.exception()
    if error is not None:
        _log(error)


def _log(error: BaseException) -> None:
    if isinstance(error, errors.NotAsked):
        return
    if isinstance(error, errors.TriggerError):
        logger.warning("%s", error)
    else:
        logger.error("A question to Trigger.dev broke", exc_info=error)


def _forget_client(*, setting: str, **kwargs: object) -> None:
    if setting in ("TRIGGER_API_URL", "TRIGGER_SECRET_KEY"):
        for made in (client, manners, environment):
            made.cache_clear()


setting_changed.connect(_forget_client)
