"""Runs of an account that belong to no living task: content runs and the like, and what is left of deleted tasks.

One list of the environment's newest runs serves all accounts while somebody watches a list of runs: its items carry
their tags. Each account's own list, by its tag, brings what came before, and follows its unfinished runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from tasks.models import Run, RunFeed, RunOwner, SharedPoll
from tasks.runs import due, store
from tasks.runs.due import EVER, NEVER, PollState, Unfinished
from tasks.runs.owners import ACCOUNT_TAG
from tasks.runs.polling import (
    BATCH,
    LEASE,
    MAX_PAGE,
    MAX_RETRY,
    MIN_RETRY,
    OVERLAP,
    POLLS,
    drop_unknown,
    last_certain,
    lockable,
    shared_poll_as_of,
)
from tasks.runs.store import UNREADABLE, RunCopy, read_copies, read_copy
from tasks.trigger import errors
from tasks.trigger.client import TriggerClient

NEWEST_PAUSE = timedelta(seconds=4)
# After a longer pause, or more pages, the list begins anew: what lies between is left to the accounts' own lists.
MAX_GAP, MAX_NEWEST_PAGES = timedelta(minutes=10), 10
# An account's own list is read at least this often while it is watched.
EVERY = timedelta(minutes=5)
# Unfinished runs that a poll retrieves one by one, because its list lacks them.
MAX_RETRIEVED = 20


@dataclass
class FeedPoller:
    """As `tasks.runs.polling.Poller`."""

    client: TriggerClient
    now: Callable[[], datetime]
    next_deadline: Callable[[], float]

    def step(self, run_all: Callable[[Callable[[RunFeed], bool], Sequence[RunFeed]], object]) -> int:
        """Polls what is due, and says how many accounts were."""
        self.poll_newest()
        claimed = self.claim()
        run_all(self.poll, claimed)
        return len(claimed)

    # --- The list of an account --------------------------------------------------------------------------------------

    def claim(self, count: int = BATCH) -> list[RunFeed]:
        now = self.now()
        with transaction.atomic():
            watched = RunFeed.objects.filter(watched_until__gt=now, next_poll_at__lte=now).order_by("next_poll_at")
            claimed = list(lockable(watched)[:count])
            RunFeed.objects.filter(pk__in=[feed.pk for feed in claimed]).update(next_poll_at=now + LEASE)
        for feed in claimed:
            feed.next_poll_at = now + LEASE
        return claimed

    def poll(self, feed: RunFeed) -> bool:
        """Whether Trigger.dev answered. Never raises for what Trigger.dev does."""
        try:
            self.read(feed)
        except errors.TriggerError as error:
            self.postpone(feed, error)
            return False
        return True

    def read(self, feed: RunFeed) -> None:
        """One poll. Raises a TriggerError when the list fails."""
        began = self.now()
        try:
            tag = f"{ACCOUNT_TAG}{feed.account_id}"
            page = self.client.list_runs(tag=tag, limit=MAX_PAGE, deadline=self.next_deadline())
        except errors.TriggerError:
            POLLS.labels("failed").inc()
            raise
        copies = [copy for copy in read_copies(page.runs) if feed.account_id in copy.tagged]
        retrieved, lost = self.retrieve_missing(feed.account_id, {copy.id for copy in copies})
        shared_as_of = shared_poll_as_of()
        for found in (copies, retrieved):
            store.store_listed(found, as_of=began, shared_as_of=shared_as_of, at=self.now(), with_new=True)
        for run in lost:
            certain = last_certain(run, feed.polled_at, shared_as_of)
            Run.objects.filter(pk=run.pk, is_final=False, absent_at=None).update(absent_at=certain)
        self.plan(feed, began=began, shared_as_of=shared_as_of)
        POLLS.labels("account").inc()

    def retrieve_missing(self, account_id: UUID, listed: set[str]) -> tuple[list[RunCopy], list[Run]]:
        """Unfinished runs that the list lacks; and those of them that could not be retrieved."""
        retrieved, lost = list[RunCopy](), list[Run]()
        for run in unfinished_of(account_id).exclude(pk__in=listed)[:MAX_RETRIEVED]:
            try:
                found = self.client.retrieve_run(run.pk, deadline=self.next_deadline())
                retrieved.append(read_copy(found))
            except errors.NotFound:
                if not drop_unknown(run, now=self.now()):
                    lost.append(run)
            except (errors.TriggerError, *UNREADABLE):
                lost.append(run)
        return retrieved, lost

    def plan(self, feed: RunFeed, *, began: datetime, shared_as_of: datetime) -> None:
        rows = unfinished_of(feed.account_id).values_list("stored_at", "created_at", "absent_at")
        unfinished = tuple(Unfinished(*row) for row in rows)
        state = PollState(polled_at=began, deep_polled_at=began, spread=0.0, unfinished=unfinished)
        next_poll = due.next_poll(state, is_watched=True, shared_as_of=shared_as_of)
        RunFeed.objects.filter(pk=feed.pk).update(
            polled_at=began,
            next_poll_at=min(next_poll, began + EVERY),
            unfinished_stored_at=max((run.stored_at for run in unfinished if run.absent_at is None), default=None),
            absent_at=min((run.absent_at for run in unfinished if run.absent_at is not None), default=None),
        )

    def postpone(self, feed: RunFeed, error: errors.TriggerError) -> None:
        now = self.now()
        pause = max(MIN_RETRY, min(MAX_RETRY, now - feed.polled_at if feed.polled_at else MIN_RETRY))
        if isinstance(error, errors.TooManyRequests | errors.NotSent):
            pause = max(pause, timedelta(seconds=error.retry_after))
        claimed = RunFeed.objects.filter(pk=feed.pk, next_poll_at=feed.next_poll_at)
        claimed.update(next_poll_at=now + pause)

    # --- The newest runs of the environment --------------------------------------------------------------------------

    def poll_newest(self) -> bool:
        """Whether the list was read: it is, while any list of runs is watched."""
        began = self.now()
        shared = self.claim_newest(began)
        if shared is None:
            return False
        known_until = shared.newest_as_of
        has_gap = known_until is None or began - known_until > MAX_GAP
        reach = (began if known_until is None or has_gap else known_until) - OVERLAP
        after, pages = None, 0
        try:
            while pages == 0 or (after is not None and pages < MAX_NEWEST_PAGES):
                page = self.client.list_newest_runs(
                    since=reach, limit=MAX_PAGE, after=after, deadline=self.next_deadline()
                )
                store.store_listed(
                    read_copies(page.runs),
                    as_of=began,
                    shared_as_of=shared_poll_as_of(),
                    at=self.now(),
                    with_new=True,
                )
                after, pages = page.next, pages + 1
        except errors.TriggerError:
            SharedPoll.objects.update(newest_next_at=self.now() + MIN_RETRY)
            POLLS.labels("failed").inc()
            return False
        begins_anew = has_gap or after is not None
        SharedPoll.objects.update(
            newest_as_of=began,
            newest_since=began if begins_anew else shared.newest_since,
            newest_next_at=began + NEWEST_PAUSE,
        )
        if begins_anew:
            RunFeed.objects.filter(watched_until__gt=began, polled_at__lt=began - OVERLAP).update(next_poll_at=began)
        POLLS.labels("newest").inc()
        return True

    def claim_newest(self, now: datetime) -> SharedPoll | None:
        if not RunFeed.objects.filter(watched_until__gt=now).exists():
            return None
        with transaction.atomic():
            SharedPoll.objects.get_or_create(pk=1, defaults={"next_at": now})
            shared = SharedPoll.objects.select_for_update().get()
            if shared.newest_next_at is not None and shared.newest_next_at > now:
                return None
            SharedPoll.objects.update(newest_next_at=now + LEASE)
        return shared


def unfinished_of(account_id: UUID) -> QuerySet[Run]:
    """The account's unfinished runs that no task's poll follows. The newest first.

    By the index of unfinished runs: an account can have a million others.
    """
    has_no_task = Q(task=None) | Q(task__deleted_at__isnull=False)
    is_owned = Exists(RunOwner.objects.filter(run=OuterRef("pk"), account_id=account_id))
    return Run.objects.filter(has_no_task, is_owned, is_final=False)


def as_of(feed: RunFeed, shared: SharedPoll | None) -> datetime:
    """Until when the stored runs were certainly what Trigger.dev has. The feed was polled."""
    polled_at = feed.polled_at or NEVER
    newest_as_of, newest_since = (shared.newest_as_of, shared.newest_since) if shared else (None, None)
    has_no_gap = newest_since is not None and polled_at >= newest_since - OVERLAP
    known_until = max(polled_at, newest_as_of) if newest_as_of is not None and has_no_gap else polled_at
    shared_as_of = shared.as_of if shared else None
    unfinished = due.as_of(feed.absent_at or EVER, polled_at, feed.unfinished_stored_at, shared_as_of)
    return min(known_until, unfinished or NEVER)
