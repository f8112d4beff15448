"""Whether this process lives, and whether it can serve: answered before anything else looks at the request.

A probe names neither a host of ours nor comes through the proxy that ends TLS, so no later middleware may judge it.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache as once
from typing import Any

from django.core.cache import cache
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase

from recoup.metrics import metrics
from tasks.gateway import upstream
from tasks.models import Task

OK, FAILED = "ok", "failed"
# Seconds that a result is told without checking again: anybody may ask.
KEPT_FOR = 1.0
# While a check is made, for so long what was told before; where that is older, so long is waited for the check to end.
BELIEVED_FOR, PATIENCE = 5.0, 2.0

Handler = Callable[[HttpRequest], HttpResponseBase]
logger = logging.getLogger(__name__)


class NotReady(Exception):
    """Something that every request needs is not there"""


def healthz(request: HttpRequest) -> HttpResponseBase:
    """It answers, so it lives; nothing else is looked at, since a restart would mend nothing else."""
    return JsonResponse({"status": OK})


class Readiness:
    """What the checks said last. They are made by one thread at a time, however many probes come meanwhile."""

    def __init__(self, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._checking = threading.Lock()
        self._checked_at, self._is_ready = -math.inf, False
        self._body: dict[str, Any] = {}

    def answer(self) -> JsonResponse:
        wait = self._patience if self._is_older_than(BELIEVED_FOR) else 0.0
        if self._is_older_than(KEPT_FOR) and self._checking.acquire(timeout=wait):
            try:
                if self._is_older_than(KEPT_FOR):
                    self._is_ready, self._body = checked()
                    self._checked_at = time.monotonic()
            finally:
                self._checking.release()
        if self._is_older_than(BELIEVED_FOR):
            return JsonResponse({"status": "not ready", "checks": "have not ended"}, status=503)
        return JsonResponse(self._body, status=200 if self._is_ready else 503)

    def _is_older_than(self, seconds: float) -> bool:
        return time.monotonic() - self._checked_at > seconds


@once
def readiness() -> Readiness:
    return Readiness()


def readyz(request: HttpRequest) -> HttpResponseBase:
    """200 or 503, by what every request needs. That Trigger.dev is away is told, and no more: the API serves."""
    return readiness().answer()


def checked() -> tuple[bool, dict[str, Any]]:
    checks = {name: result_of(name, check) for name, check in CHECKS.items()}
    body: dict[str, Any] = {**checks, "trigger": trigger_state()}
    if checks["database"] == checks["migrations"] == OK:
        try:
            body["unsettled_tasks"] = Task.objects.unsettled().count()
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
    """What a driver says may hold a password."""
    logger.warning("Not ready, the check of the %s failed: %s", name, type(error).__name__)
    return FAILED


def check_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@once
def check_migrations() -> None:
    """Kept once it has succeeded: what this code needs is not taken back while it runs."""
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise NotReady


def check_cache() -> None:
    cache.set("readyz", OK, 60)
    if cache.get("readyz") != OK:
        raise NotReady


CHECKS: Mapping[str, Callable[[], None]] = {
    "database": check_database,
    "migrations": check_migrations,
    "cache": check_cache,
}


def trigger_state() -> dict[str, Any]:
    """Of this worker: what it last learnt of Trigger.dev, which is not asked for this."""
    wait = upstream.gate().seconds_until_reset()
    if wait:
        return {"status": "rate limited", "seconds": round(wait, 1)}
    return {"status": "circuit breaker open" if upstream.gate().has_open_breaker() else OK}


PROBES: Mapping[str, Handler] = {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics}


def probes(get_response: Handler) -> Handler:
    def answer(request: HttpRequest) -> HttpResponseBase:
        probe = PROBES.get(request.path_info)
        if probe is None:
            return get_response(request)
        response: Any = probe(request)
        # Django would log each 503, though the check has said once what failed.
        response._has_been_logged = True
        return response

    return answer
