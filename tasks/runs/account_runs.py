"""The runs of an account: what has to be polled before they are listed, and how far they can be trusted.

They are those of its tasks, each as fresh as its task, and those of no task, as fresh as its feed.
"""

import logging
import time
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.db import DatabaseError
from django.db.models import F, Q, QuerySet

from core.connections import give_connections_back
from tasks.gateway import upstream
from tasks.models import Run, RunFeed, RunOwner, SharedPoll, Task
from tasks.runs import background, due, feeds, reading, worker
from tasks.runs.due import NEVER, RunsStatus
from tasks.runs.polling import MAX_CALL
from tasks.runs.reading import OVERDUE_AFTER, WATCHED_FOR

# What the freshness of a task needs.
POLL_COLUMNS = ("id", "polled_at", "next_poll_at", "watched_until", "quiet_until", "unfinished_stored_at")
COLUMNS = (*POLL_COLUMNS, "trigger_schedule_id", "run_by_hand_at")

logger = logging.getLogger(__name__)


def of_account(account_id: UUID) -> QuerySet[Any]:
    """Newest first, by the index of the owners; `listed_at` and `listed_id` are its columns."""
    owned = Run.objects.filter(owners__account_id=account_id)
    return ordered(owned.annotate(listed_at=F("owners__created_at"), listed_id=F("owners__run_id")))


def of_task(task_id: UUID, account_id: UUID) -> QuerySet[Any]:
    """None for a task of another account."""
    runs = Run.objects.filter(task_id=task_id, task__account_id=account_id)
    return ordered(runs.annotate(listed_at=F("created_at"), listed_id=F("id")))


def ordered(runs: QuerySet[Any]) -> QuerySet[Any]:
    return runs.order_by("-listed_at", "-listed_id")


def refresh(account_id: UUID, *, now: datetime, deadline: float) -> tuple[RunsStatus, datetime | None]:
    """Polls what never was, and marks everything as watched. How far the stored runs can be trusted, and until when.

    Raises a TriggerError when the account was never polled, and cannot be now.
    """
    feed = RunFeed.objects.filter(pk=account_id).first()
    if feed is None or feed.polled_at is None:
        feed = first_poll(account_id, now=now, deadline=deadline)
    living = Task.objects.living().filter(account_id=account_id).only(*COLUMNS).order_by()
    tasks = [task for task in living if reading.can_have_runs(task)]
    tasks = reading.with_first_polls(tasks, now=now, deadline=deadline)
    shared = SharedPoll.objects.first()
    shared_as_of = (shared.as_of if shared else None) or NEVER
    reading.watch(tasks, shared_as_of=shared_as_of, now=now)
    watch([account_id], now=now)
    moments = [feeds.as_of(feed, shared)]
    for task in tasks:
        status, as_of = reading.status_of(task, shared_as_of=shared_as_of, now=now)
        if as_of is None or status is RunsStatus.UNAVAILABLE:
            return RunsStatus.STALE, None
        moments.append(as_of)
    as_of = min(moments)
    if min(feed.next_poll_at, moments[0] + feeds.NEWEST_PAUSE) < now - OVERDUE_AFTER:
        background.wake()
    return (RunsStatus.FRESH if due.is_fresh(as_of, now=now) else RunsStatus.STALE), min(as_of, now)


def first_poll(account_id: UUID, *, now: datetime, deadline: float) -> RunFeed:
    """Readers of this process share it."""
    values = {"next_poll_at": now, "watched_until": now + WATCHED_FOR}
    feed, _ = RunFeed.objects.get_or_create(pk=account_id, defaults=values)
    poller = replace(worker.feed_poller(), next_deadline=lambda: min(deadline, time.monotonic() + MAX_CALL))
    give_connections_back()
    name = upstream.cache_name("feed", str(account_id))
    upstream.call_once(name, partial(poller.read, feed), deadline=deadline)
    feed.refresh_from_db()
    return feed


def watch(account_ids: Collection[UUID], *, now: datetime) -> None:
    """At most one write per minute for each account. A read does not fail because of it."""
    renewed = RunFeed.objects.filter(pk__in=account_ids, watched_until__lt=now + WATCHED_FOR / 2)
    try:
        if renewed.exists():
            renewed.filter(watched_until__lte=now, next_poll_at__gt=now).update(next_poll_at=now)
            renewed.update(watched_until=now + WATCHED_FOR)
    except DatabaseError:
        logger.exception("Accounts could not be marked as watched")


def follow(run_ids: Collection[str], *, now: datetime) -> None:
    """Somebody waits for these runs: what polls them is watched, and a step is taken at once when one is due."""
    tasks = Task.objects.living().filter(pk__in=Run.objects.filter(pk__in=run_ids).values("task"))
    rows = list(tasks.only(*COLUMNS))
    reading.watch(rows, shared_as_of=NEVER, now=now)
    has_no_task = Q(run__task=None) | Q(run__task__deleted_at__isnull=False)
    accounts = set(RunOwner.objects.filter(has_no_task, run__in=run_ids).values_list("account_id", flat=True))
    new = [RunFeed(account_id=pk, next_poll_at=now, watched_until=now + WATCHED_FOR) for pk in accounts]
    RunFeed.objects.bulk_create(new, ignore_conflicts=True)
    watch(accounts, now=now)
    is_due = any(task.next_poll_at is not None and task.next_poll_at <= now for task in rows)
    if is_due or RunFeed.objects.filter(pk__in=accounts, next_poll_at__lte=now).exists():
        background.wake()
