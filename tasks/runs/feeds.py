"""Runs of an account that no poll of its tasks follows: content runs, those of deleted tasks, those of others' tasks.

One list of the environment's newest runs serves all accounts while somebody watches a list of runs: its items carry
their tags. Each account's own list, by its tag, brings what came before, and follows its unfinished runs.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from django.db.models import Exists, OuterRef, QuerySet

from tasks.models import Run, RunFeed, RunOwner, SharedPoll
from tasks.runs import due, store
from tasks.runs.copies import RunCopy
from tasks.runs.due import EVER, NEVER, PollState, Unfinished
from tasks.runs.owners import ACCOUNT_TAG
from tasks.runs.polling import MAX_PAGE, OVERLAP, Poller, mark_absent, shared_poll_as_of
from tasks.runs.task_polls import oldest_in_question
from tasks.trigger import errors

# An account's own list is read at least this often while it is watched, down to the last poll and to the oldest of its
# newest unfinished runs.
EVERY = timedelta(minutes=5)
MAX_PAGES = 10
# If there are more new runs than these pages hold, later polls read the rest.
GAP_PAUSE, NO_GAP = timedelta(seconds=10), {"gap_after": "", "gap_until": None}
# Unfinished runs that one poll retrieves, because its list lacks them. The others are not certain meanwhile.
MAX_RETRIEVED = 5


class FeedPoller(Poller[RunFeed]):
    rows = RunFeed.objects
    outcome = "account"

    def read(self, row: RunFeed) -> None:
        began = self.now()
        unfinished = list(unfinished_of(row.account_id).defer("data"))
        state = as_state(unfinished, row.polled_at or NEVER)
        copies, gap = self.read_list(row, oldest_in_question(state, began=began))
        listed = {copy.id for copy in copies}
        missing = [run for run in unfinished if run.pk not in listed]
        copies += self.retrieve_some(missing)
        shared_as_of = shared_poll_as_of()
        store.store_listed(copies, as_of=began, shared_as_of=shared_as_of, at=self.now(), with_new=True)
        found = {copy.id for copy in copies}
        lost = [run.pk for run in missing if run.pk not in found]
        mark_absent(lost, polled_at=row.polled_at, shared_as_of=shared_as_of)
        next_poll = min(next_poll_of(row.account_id, began, shared_as_of=shared_as_of), began + EVERY)
        if gap["gap_until"] is not None:
            next_poll = min(next_poll, began + GAP_PAUSE)
        RunFeed.objects.filter(pk=row.pk).update(polled_at=began, next_poll_at=next_poll, **gap)

    def read_list(self, feed: RunFeed, reach: datetime) -> tuple[list[RunCopy], dict[str, Any]]:
        """Reads down to `reach`, at most MAX_PAGES, and returns the gap that is left. The first poll reads one page."""
        if feed.polled_at is None:
            return self.read_pages(feed, reach, most=1)[0], NO_GAP
        known_from = min(feed.polled_at - OVERLAP, feed.gap_until or EVER)
        copies, after = self.read_pages(feed, reach)
        if after and (not copies or copies[-1].created_at >= feed.polled_at - OVERLAP):
            return copies, {"gap_after": after, "gap_until": known_from}
        if feed.gap_until is None:
            return copies, NO_GAP
        try:
            more, after = self.read_pages(feed, feed.gap_until, after=feed.gap_after)
        except errors.TriggerError:
            # The newest runs are stored all the same; the gap is read again in the next poll.
            return copies, {"gap_after": feed.gap_after, "gap_until": feed.gap_until}
        return copies + more, {"gap_after": after, "gap_until": feed.gap_until} if after else NO_GAP

    def read_pages(
        self, feed: RunFeed, reach: datetime, *, most: int = MAX_PAGES, after: str | None = None
    ) -> tuple[list[RunCopy], str | None]:
        """Also returns the cursor of the next page; None at the end of the list, or below `reach`."""
        copies, tag = list[RunCopy](), f"{ACCOUNT_TAG}{feed.account_id}"
        pages = self.pages(self.client.list_runs, tag=tag, limit=MAX_PAGE, after=after)
        for page, listed in islice(pages, most):
            copies, after = copies + listed, page.next
            if listed and listed[-1].created_at < reach:
                return copies, None
        return copies, after

    def retrieve_some(self, missing: list[Run]) -> list[RunCopy]:
        """Of the unfinished runs that the list lacks, those first that have been uncertain for longest."""
        longest = sorted(missing, key=lambda run: (run.absent_at or EVER, run.created_at))
        return [copy for run in longest[:MAX_RETRIEVED] if (copy := self.retrieve(run))]


def unfinished_of(account_id: UUID) -> QuerySet[Run]:
    """The account's unfinished runs that no poll of its tasks follows; a run can belong to another account's task.

    By the index of unfinished runs: an account can have a million others.
    """
    is_owned = Exists(RunOwner.objects.filter(run=OuterRef("pk"), account_id=account_id))
    return Run.objects.filter(is_owned, is_final=False).exclude(task__account_id=account_id).order_by()


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
