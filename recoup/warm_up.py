"""What the first requests of a process would wait for: compiled queries, and the next times of watched tasks."""

import uuid
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

from django.db import Error
from django.http import HttpRequest
from django.urls import resolve
from django.utils import timezone
from rest_framework.test import APIRequestFactory, force_authenticate

from accounts.models import Account
from core.connections import give_connections_back
from tasks import cron
from tasks.models import Task
from tasks.runs import reading

PATHS = ("/api/tasks", "/api/tasks/runs?runId=none")
WATCHED_WITHIN = timedelta(hours=1)
# Mostly less than a millisecond each.
MAX_SCHEDULES = 1_000


def warm_up() -> None:
    """Answers requests of an account that does not exist. Trigger.dev is not called, and nothing is written."""
    for path in PATHS:
        request = cast(HttpRequest, APIRequestFactory().get(path))
        force_authenticate(request, cast(Any, Account(pk=uuid.UUID(int=0), name="warm-up")))
        with suppress(Error):
            view = resolve(request.path_info)
            view.func(request, *view.args, **view.kwargs)
    with suppress(Error):
        now = timezone.now()
        watched = Task.objects.living().filter(watched_until__gt=now - WATCHED_WITHIN)
        for schedule, zone in watched.order_by().values_list("schedule", "timezone").distinct()[:MAX_SCHEDULES]:
            with suppress(cron.CronError, KeyError, ValueError):
                reading.cached_times(schedule, zone, now=now)
    give_connections_back()
