"""Runs of an account that belong to no living task: content runs and the like, and what is left of deleted tasks.

One list of the environment's newest runs serves all accounts while somebody watches a list of runs: its items carry
their tags. Each account's own list, by its tag, brings what came before, and follows its unfinished runs.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet

from tasks.models import Run, RunFeed, RunOwner, SharedPoll
from tasks.runs import due, store
from tasks.runs.due import EVER, NEVER, PollState, Unfinished
from tasks.runs.owners import ACCOUNT_TAG
from tasks.runs.polling import (
    BATCH,
    LEASE,
    MAX_PAGE,
    MIN_RETRY,
    OVERLAP,
    POLLS,
    Calls,
    drop_unknown,
    lockable,
    oldest_in_question,
    shared_poll_as_of,
)
from tasks.runs.store import UNREADABLE, RunCopy, read_copies, read_copy
from tasks.trigger import errors

NEWEST_PAUSE = timedelta(seconds=4)
# How much later than it was created a run may be listed.
LAG = timedelta(seconds=30)
# After a longer pause, or more runs, the list begins anew: what lies between is left to the accounts' own lists.
MAX_GAP, MAX_NEWEST_PAGES = timedelta(minutes=10), 10
# An account's own list is read at least this often while it is watched, down to the last poll and to the oldest of its
# newest unfinished runs.
EVERY = timedelta(minutes=5)
MAX_PAGES = 10
# Unfinished runs that one poll retrieves, because its list lacks them. The others are not certain meanwhile.
MAX_RETRIEVED = 5
# Rows that one statement changes.
CHUNK = 500


class FeedPoller(Calls):
    def step(self, run_all: Callable[[Callable[[RunFeed], bool], Sequence[RunFeed]], object]) -> int:
        """Polls what is due, and says how many accounts were."""
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
        unfinished = list(unfinished_of(feed.account_id).defer("data"))
        try:
            state = as_state(unfinished, feed.polled_at or NEVER)
            copies = self.read_list(feed, oldest_in_question(state, began=began, is_deep=False))
        except errors.TriggerError:
            POLLS.labels("failed").inc()
            raise
        listed = {copy.id for copy in copies}
        missing = [run for run in unfinished if run.pk not in listed]
        copies += self.retrieve(missing)
        shared_as_of = shared_poll_as_of()
        store.store_listed(copies, as_of=began, shared_as_of=shared_as_of, at=self.now(), with_new=True)
        self.mark_lost(missing, {copy.id for copy in copies}, feed)
        next_poll = min(next_poll_of(feed.account_id, began, shared_as_of=shared_as_of), began + EVERY)
        RunFeed.objects.filter(pk=feed.pk).update(polled_at=began, next_poll_at=next_poll)
        POLLS.labels("account").inc()

    def read_list(self, feed: RunFeed, reach: datetime) -> list[RunCopy]:
        """Down to `reach`, or as many pages as there may be. The first time one page."""
        copies, after, pages = list[RunCopy](), None, 0
        most = MAX_PAGES if feed.polled_at is not None else 1
        while pages == 0 or (after is not None and pages < most and (not copies or copies[-1].created_at >= reach)):
            page = self.client.list_runs(
                tag=f"{ACCOUNT_TAG}{feed.account_id}", limit=MAX_PAGE, after=after, deadline=self.next_deadline()
            )
            copies += read_copies(page.runs)
            after, pages = page.next, pages + 1
        return copies

    def retrieve(self, missing: list[Run]) -> list[RunCopy]:
        """Some of the unfinished runs that the list lacks, those first that have been uncertain for longest."""
        retrieved = list[RunCopy]()
        for run in sorted(missing, key=lambda run: (run.absent_at or EVER, run.created_at))[:MAX_RETRIEVED]:
            try:
                retrieved.append(read_copy(self.client.retrieve_run(run.pk, deadline=self.next_deadline())))
            except errors.NotFound:
                drop_unknown(run, now=self.now())
            except (errors.TriggerError, *UNREADABLE):
                continue
        return retrieved

    def mark_lost(self, missing: list[Run], found: set[str], feed: RunFeed) -> None:
        """These runs were last certain at the last poll."""
        lost = [run.pk for run in missing if run.pk not in found and run.absent_at is None]
        for start in range(0, len(lost), CHUNK):
            runs = Run.objects.filter(pk__in=lost[start : start + CHUNK], is_final=False, absent_at=None)
            runs.update(absent_at=feed.polled_at or F("stored_at"))

    def postpone(self, feed: RunFeed, error: errors.TriggerError) -> None:
        claimed = RunFeed.objects.filter(pk=feed.pk, next_poll_at=feed.next_poll_at)
        claimed.update(next_poll_at=self.now() + self.pause_after(error, polled_at=feed.polled_at))

    # --- The newest runs of the environment --------------------------------------------------------------------------

    def poll_newest(self) -> bool:
        """Whether the list was read: it is, while any list of runs is watched."""
        began = self.now()
        shared = self.claim_newest(began)
        if shared is None:
            return False
        known_until, since = shared.newest_as_of, shared.newest_since
        reach = began - (LAG if shared.is_newest_cut else OVERLAP)
        if known_until is None or shared.is_newest_cut or began - known_until > MAX_GAP:
            since = None
        else:
            reach = known_until - OVERLAP
        after, pages, oldest = None, 0, began
        try:
            while pages == 0 or (after is not None and pages < MAX_NEWEST_PAGES):
                page = self.client.list_newest_runs(
                    since=reach, limit=MAX_PAGE, after=after, deadline=self.next_deadline()
                )
                copies = read_copies(page.runs)
                store.store_listed(copies, as_of=began, shared_as_of=shared_poll_as_of(), at=self.now(), with_new=True)
                after, pages = page.next, pages + 1
                oldest = min([oldest, *(copy.created_at for copy in copies)])
        except errors.TriggerError:
            SharedPoll.objects.update(newest_next_at=self.now() + MIN_RETRY)
            POLLS.labels("failed").inc()
            return False
        is_cut = after is not None
        # An account that was polled later than this missed nothing that this list did not bring.
        if is_cut or since is None:
            since = (oldest if is_cut else reach) + LAG
        SharedPoll.objects.update(
            newest_as_of=began, newest_since=since, is_newest_cut=is_cut, newest_next_at=began + NEWEST_PAUSE
        )
        gap = RunFeed.objects.filter(watched_until__gt=began, polled_at__lt=min(since, began - due.FRESH_FOR))
        gap.filter(next_poll_at__gt=began).update(next_poll_at=began)
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
    """The account's unfinished runs that no task's poll follows.

    By the index of unfinished runs: an account can have a million others.
    """
    is_owned = Exists(RunOwner.objects.filter(run=OuterRef("pk"), account_id=account_id))
    return Run.objects.filter(is_owned, task=None, is_final=False).order_by()


def state_of(account_id: UUID, polled_at: datetime) -> PollState:
    """Not stored: such runs come by several lists."""
    return as_state(unfinished_of(account_id).only("stored_at", "created_at", "absent_at"), polled_at)


def as_state(runs: Iterable[Run], polled_at: datetime) -> PollState:
    """As of a task without a schedule."""
    unfinished = tuple(Unfinished(run.stored_at, run.created_at, run.absent_at) for run in runs)
    return PollState(polled_at=polled_at, deep_polled_at=polled_at, spread=0.0, unfinished=unfinished)


def next_poll_of(account_id: UUID, polled_at: datetime, *, shared_as_of: datetime) -> datetime:
    return due.next_poll(state_of(account_id, polled_at), is_watched=True, shared_as_of=shared_as_of)


def as_of(state: PollState, shared: SharedPoll) -> datetime:
    """Until when the stored runs were certainly what Trigger.dev has. The feed was polled."""
    polled_at = known_until = state.polled_at or NEVER
    if shared.newest_as_of is not None and shared.newest_since is not None and polled_at >= shared.newest_since:
        known_until = max(polled_at, shared.newest_as_of)
    stored_at = max((run.stored_at for run in state.unfinished if run.absent_at is None), default=None)
    unfinished = due.as_of(due.quiet_until(state), polled_at, stored_at, shared.as_of)
    return min(known_until, unfinished or NEVER)
