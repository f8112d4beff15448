"""What the first requests of a process would wait for: compiled queries, what a connection of the database looks up
first, and the next times of watched tasks.
"""

import logging
import uuid
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, cast

from django.conf import settings
from django.core.handlers.base import BaseHandler
from django.db import Error
from django.http import HttpRequest
from django.utils import timezone
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.test import APIRequestFactory, force_authenticate

from accounts.api.authentication import find_key
from accounts.credentials import api_keys
from accounts.models import Account
from core.connections import give_connections_back
from tasks.api.rendering import json_response, tasks_body
from tasks.models import Task
from tasks.runs import reading
from tasks.runs.due import NEVER

PATHS = ("/api/tasks", "/api/tasks/runs?runId=none")
WATCHED_WITHIN = timedelta(hours=1)
# Mostly less than a millisecond each, and so many in memory at once.
MAX_TASKS, AT_ONCE = 1_000, 50
# Some work is done only when a connection comes from the pool again.
ROUNDS = 3


def warm_up(application: BaseHandler) -> None:
    """Trigger.dev is not called, nothing is written or logged, and a database that is away is found out once.

    Only the metrics have six requests more.
    """
    logging.disable()
    try:
        with suppress(Error):
            for _ in range(ROUNDS):
                look_up_a_key()
                for path in PATHS:
                    request_nothing(application, path)
                render_watched_tasks(now=timezone.now())
                give_connections_back()
    finally:
        logging.disable(logging.NOTSET)
        give_connections_back()


def look_up_a_key() -> None:
    with suppress(AuthenticationFailed):
        find_key(api_keys.create(), at=timezone.now())


def request_nothing(application: BaseHandler, path: str) -> None:
    """As an account that does not exist."""
    host = next(iter(settings.ALLOWED_HOSTS), "localhost").lstrip(".")
    request = cast(HttpRequest, APIRequestFactory().get(path, HTTP_HOST=host, secure=True))
    force_authenticate(request, cast(Any, Account(pk=uuid.UUID(int=0), name="warm-up")))
    application.get_response(request)


def render_watched_tasks(*, now: datetime) -> None:
    """Those of somebody who has asked a short time ago, and asks again; together, for the memory that a list takes."""
    watched = Task.objects.living().to_show().filter(watched_until__gt=now - WATCHED_WITHIN).order_by("-watched_until")
    for start in range(0, MAX_TASKS, AT_ONCE):
        tasks = [reading.enriched(task, shared_as_of=NEVER, now=now) for task in watched[start : start + AT_ONCE]]
        if tasks:
            json_response(tasks_body(tasks))
        if len(tasks) < AT_ONCE:
            return
