"""/healthz, /readyz and /metrics, answered before any other middleware.

A probe sends no Host of ours and does not come through the TLS proxy, so later middleware would reject it.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache as once
from typing import Any, cast

from django.conf import settings
from django.core.cache import cache
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase

from core.cache import TolerantRedisCache
from core.connections import advice
from recoup.metrics import metrics
from tasks import upkeep
from tasks.gateway import upstream
from tasks.gateway.environment import environment_problem
from tasks.models import Task

OK, FAILED = "ok", "failed"
# Seconds. A result is reused for this long: the paths need no credential, so anybody may call them often.
CACHED_FOR = 1.0
# While a check is running, an earlier result is used up to this age; otherwise the probe waits for the check.
MAX_AGE, PATIENCE = 5.0, 2.0

Handler = Callable[[HttpRequest], HttpResponseBase]
logger = logging.getLogger(__name__)


class NotReady(Exception):
    """Something that every request needs is missing"""


def healthz(request: HttpRequest) -> HttpResponseBase:
    """The process lives. Nothing else is checked, since a restart would repair nothing else."""
    return JsonResponse({"status": OK})


class Readiness:
    """The last result of the checks. One thread at a time runs them, for any number of probes."""

    def __init__(self, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._checking = threading.Lock()
        self._checked_at, self._is_ready = -math.inf, False
        self._body: dict[str, Any] = {}

    def answer(self) -> JsonResponse:
        wait = self._patience if self._is_older_than(MAX_AGE) else 0.0
        if self._is_older_than(CACHED_FOR) and self._checking.acquire(timeout=wait):
            try:
                if self._is_older_than(CACHED_FOR):
                    self._is_ready, self._body = run_checks()
                    self._checked_at = time.monotonic()
            finally:
                self._checking.release()
        if self._is_older_than(MAX_AGE):
            return JsonResponse({"status": "not ready", "checks": "are still running"}, status=503)
        return JsonResponse(self._body, status=200 if self._is_ready else 503)

    def _is_older_than(self, seconds: float) -> bool:
        return time.monotonic() - self._checked_at > seconds


@once
def readiness() -> Readiness:
    return Readiness()


def readyz(request: HttpRequest) -> HttpResponseBase:
    """200 or 503, by what every request needs. Redis and Trigger.dev are information: the API serves without them."""
    return readiness().answer()


def run_checks() -> tuple[bool, dict[str, Any]]:
    checks = {name: result_of(name, check) for name, check in CHECKS.items()}
    body: dict[str, Any] = {**checks, "cache": cache_state(), "trigger": trigger_state()}
    if checks["database"] == checks["migrations"] == OK:
        try:
            body["unsettled_tasks"] = Task.objects.unsettled().count()
            body |= upkeep.state()
            problem = environment_problem()
            if problem:
                body["trigger"] = {"status": problem}
        except Error as error:
            checks["database"] = failed("database", error)
    is_ready = set(checks.values()) == {OK}
    return is_ready, {"status": "ready" if is_ready else "not ready", **body, **checks}


def result_of(name: str, check: Callable[[], None]) -> str:
    try:
        check()
    except (NotReady, Error) as error:
        return failed(name, error)
    return OK


def failed(name: str, error: Exception) -> str:
    """Logs the type of the error, or our own advice: a driver's message may contain a password."""
    reason = "" if isinstance(error, NotReady) else advice()
    logger.warning("Not ready, the check of the %s failed: %s", name, reason or type(error).__name__)
    return FAILED


def check_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@once
def check_migrations() -> None:
    """Cached once it has succeeded: migrations are not undone while this code runs."""
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise NotReady


CHECKS: Mapping[str, Callable[[], None]] = {"database": check_database, "migrations": check_migrations}


def cache_state() -> str:
    """Information: without Redis each process uses its own memory, so no instance must be taken out."""
    shared = cast(TolerantRedisCache, cache)
    is_away = settings.CACHE_IS_SHARED and not shared.answers()
    return "Redis is away, each process uses its own memory" if is_away else OK


def trigger_state() -> dict[str, Any]:
    """What this worker knows from its last calls."""
    wait = upstream.gate().seconds_until_reset()
    if wait:
        return {"status": "rate limited", "seconds": round(wait, 1)}
    return {"status": "circuit breaker open" if upstream.gate().has_open_breaker() else upstream.state()}


PROBES: Mapping[str, Handler] = {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics}


def probes(get_response: Handler) -> Handler:
    def answer(request: HttpRequest) -> HttpResponseBase:
        probe = PROBES.get(request.path_info)
        if probe is None:
            return get_response(request)
        response: Any = probe(request)
        # Django would log each 503, but the check has logged the reason once.
        response._has_been_logged = True
        return response

    return answer
