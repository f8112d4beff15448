"""The process's one way to Trigger.dev: a client from the settings behind a gate."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache, partial
from typing import Any, TypeVar

from django.conf import settings
from django.core.signals import setting_changed

from core.text import fingerprint
from tasks.gateway.gate import Gate, is_in_trial
from tasks.trigger import errors
from tasks.trigger.client import PROBES, Route, TriggerClient

# The version of the cached values: increment it with every change of their layout.
CACHE_VERSION = 4

# Seconds: an older result says nothing of now; and how long a readiness check waits for a new one.
KNOWN_FOR, PROBE_PATIENCE = 30.0, 1.0

Answer = TypeVar("Answer")


@cache
def client() -> TriggerClient:
    return TriggerClient(settings.TRIGGER_API_URL, settings.TRIGGER_SECRET_KEY, gate())


@cache
def gate() -> Gate:
    return Gate(environment(), start_trial=partial(probes().start, is_trial=True))


@cache
def environment() -> str:
    """Distinguishes Trigger.dev environments in the names of cache entries."""
    return fingerprint(f"{settings.TRIGGER_API_URL} {settings.TRIGGER_SECRET_KEY}")


def cache_name(kind: str, thing: str) -> str:
    """Another version of the cached values has other names."""
    return f"runs:{CACHE_VERSION}:{environment()}:{kind}:{thing}"


def deadline_from_now() -> float:
    """In seconds of `time.monotonic()`: when a request that starts now must be answered."""
    return time.monotonic() + float(settings.REQUEST_DEADLINE)


# --- Probes in the background ----------------------------------------------------------------------------------------


class Probes:
    """No request waits for them, since Trigger.dev may hang. A thread for each kind of call."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(len(PROBES), thread_name_prefix="trigger-probe")
        self._running: dict[Route, Future[None]] = {}

    def start(self, route: Route, *, is_trial: bool) -> bool:
        with suppress(RuntimeError):  # the process ends
            running = self._running.get(route)
            if running is None or running.done():
                self._running[route] = self._threads.submit(probe, route, is_trial=is_trial)
                return True
        return False

    def wait(self, *, seconds: float | None = None) -> None:
        """Until none is running, or as long."""
        wait([*self._running.values()], timeout=seconds)

    def finish(self) -> None:
        self._threads.shutdown()


@cache
def probes() -> Probes:
    return Probes()


def probe(route: Route, *, is_trial: bool) -> None:
    is_in_trial.set(is_trial)  # this thread makes no other calls
    with suppress(errors.TriggerError):
        client().probe(route, deadline=deadline_from_now())


def state() -> str:
    """Whether Trigger.dev answers us, for an operator; asked in the background where the last answer is old."""
    if not is_known():
        probes().start("run", is_trial=False)
        probes().wait(seconds=PROBE_PATIENCE)
    if not is_known():
        return "no answer yet"
    _, error = gate().last_result
    if isinstance(error, errors.Refused) and error.status in (401, 403):
        return "the secret key is refused"
    # Any other refusal is an answer to what was asked.
    return "ok" if error is None or isinstance(error, errors.NotFound | errors.Refused) else str(error.__doc__)


def is_known() -> bool:
    return 0 <= time.time() - gate().last_result[0] <= KNOWN_FOR


# --- One call for several requests -----------------------------------------------------------------------------------


_shared: dict[str, Future[Any]] = {}
_lock = threading.Lock()


def call_once(name: str, call: Callable[[], Answer], *, deadline: float) -> Answer:
    """The result of `call`, or of the call with this name that another thread is making. Raises what that one raises,
    and TimedOut at the deadline.
    """
    with _lock:
        running: Future[Answer] | None = _shared.get(name)
        own = _shared[name] = Future() if running is None else running
    if running is not None:
        with suppress(TimeoutError):
            return running.result(max(0.0, deadline - time.monotonic()))
        raise errors.TimedOut("the deadline of the request has passed")
    try:
        own.set_result(call())
    except BaseException as error:
        own.set_exception(error)
    finally:
        with _lock:
            del _shared[name]
    return own.result()


def settle_down() -> None:
    """Waits until no probe is running."""
    probes().wait()


def finish() -> None:
    """Waits until every probe has ended, and releases threads and connections."""
    probes().finish()
    client().close()
    for made in (client, gate, environment, probes):
        made.cache_clear()


def _forget_client(*, setting: str, **kwargs: object) -> None:
    if setting in ("TRIGGER_API_URL", "TRIGGER_SECRET_KEY"):
        for made in (client, gate, environment):
            made.cache_clear()


setting_changed.connect(_forget_client)
