"""The runs of an account: what has to be polled before they are listed, and how far they can be trusted.

They are those of its tasks, each as fresh as its task, and all others, as fresh as its feed.
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
from django.db.models import F, QuerySet

from core.connections import give_connections_back
from tasks.gateway import upstream
from tasks.models import Run, RunFeed, RunOwner, SharedPoll, Task
from tasks.runs import due, feeds, reading, steps
from tasks.runs import shared as lists
from tasks.runs.due import EVER, NEVER, PollState, RunsStatus
from tasks.runs.feeds import FeedPoller
from tasks.runs.polling import MAX_CALL, shared_poll
from tasks.runs.reading import OVERDUE_AFTER, WATCHED_FOR
from tasks.trigger import errors

# What the freshness of a task needs.
COLUMNS = (
    *("id", "polled_at", "next_poll_at", "watched_until", "quiet_until", "unfinished_stored_at"),
    *("trigger_schedule_id", "run_by_hand_at"),
)

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

    Raises a TriggerError when nothing is stored, the account was never polled, and it cannot be polled now.
    """
    feed = RunFeed.objects.filter(pk=account_id).first()
    if feed is None or feed.polled_at is None:
        try:
            feed = first_poll(account_id, now=now, deadline=deadline)
        except (errors.TriggerError, DatabaseError):
            if not RunOwner.objects.filter(account_id=account_id).exists():
                raise
            return RunsStatus.STALE, None
    shared = shared_poll()  # before the tasks, whose rows are as it says or newer
    shared_as_of = shared.as_of or NEVER
    tasks = list(Task.objects.living().filter(account_id=account_id).only(*COLUMNS).order_by())
    tasks = reading.with_first_polls(tasks, now=now, deadline=deadline)
    reading.watch(tasks, shared, now=now)
    state = feeds.state_of(account_id, feed.polled_at or NEVER)
    until = min(feeds.as_of(state, shared), feed.gap_until or EVER)
    watch(feed, state, shared, now=now)
    for task in tasks:
        status, as_of = reading.status_of(task, shared_as_of=shared_as_of, now=now)
        if as_of is None or status is RunsStatus.UNAVAILABLE:
            return RunsStatus.STALE, None
        until = min(until, as_of)
    return (RunsStatus.FRESH if due.is_fresh(until, now=now) else RunsStatus.STALE), min(until, now)


def first_poll(account_id: UUID, *, now: datetime, deadline: float) -> RunFeed:
    """Readers of this process share it."""
    values = {"next_poll_at": now, "watched_until": now + WATCHED_FOR}
    feed, _ = RunFeed.objects.get_or_create(pk=account_id, defaults=values)
    poller = replace(steps.made(FeedPoller), next_deadline=lambda: min(deadline, time.monotonic() + MAX_CALL))
    give_connections_back()
    name = upstream.cache_name("feed", str(account_id))
    upstream.call_once(name, partial(poller.attempt, feed), deadline=deadline)
    feed.refresh_from_db()
    return feed


def watch(feed: RunFeed, state: PollState, shared: SharedPoll, *, now: datetime) -> None:
    """Writes at most once a minute, and when an unfinished run has come. A read does not fail because of it."""
    next_poll = due.next_poll(state, is_watched=True, shared_as_of=shared.as_of or NEVER)
    if feed.watched_until <= now:
        next_poll = min(next_poll, now)
    is_sooner = next_poll < feed.next_poll_at
    if is_sooner or feed.watched_until < now + WATCHED_FOR / 2:
        feed.next_poll_at = min(next_poll, feed.next_poll_at)
        try:
            watched = RunFeed.objects.filter(pk=feed.pk)
            watched.update(watched_until=now + WATCHED_FOR)
            watched.filter(next_poll_at__gt=feed.next_poll_at).update(next_poll_at=feed.next_poll_at)
        except DatabaseError:
            logger.exception("Account %s could not be marked as watched", feed.pk)
    newest_next = shared.newest_next_at or (feed.polled_at or NEVER) + lists.NEWEST_PAUSE
    is_due_again = is_sooner and next_poll <= now
    if is_due_again or min(feed.next_poll_at, newest_next) < now - OVERDUE_AFTER:
        steps.wake()


def follow(run_ids: Collection[str], *, now: datetime) -> None:
    """Somebody waits for these runs: what polls them is watched, and a step is taken at once when one is due."""
    shared = shared_poll()
    tasks = Task.objects.living().filter(pk__in=Run.objects.filter(pk__in=run_ids).values("task"))
    rows = list(tasks.only(*COLUMNS))
    reading.watch(rows, shared, now=now)
    accounts = set(RunOwner.objects.filter(run__task=None, run__in=run_ids).values_list("account_id", flat=True))
    new = [RunFeed(account_id=pk, next_poll_at=now, watched_until=now + WATCHED_FOR) for pk in accounts]
    RunFeed.objects.bulk_create(new, ignore_conflicts=True)
    followed = list(RunFeed.objects.filter(pk__in=accounts))
    for feed in followed:
        watch(feed, feeds.state_of(feed.pk, feed.polled_at or NEVER), shared, now=now)
    due_at = [*(task.next_poll_at for task in rows), *(feed.next_poll_at for feed in followed)]
    if any(at is not None and at <= now for at in due_at):
        steps.wake()
