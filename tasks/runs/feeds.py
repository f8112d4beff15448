"""Runs of an account that belong to no living task: content runs and the like, and what is left of deleted tasks.

One list of the environment's newest runs serves all accounts while somebody watches a list of runs: its items carry
their tags. Each account's own list, by its tag, brings what came before, and follows its unfinished runs.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import islice
from uuid import UUID

from django.db.models import Exists, OuterRef, QuerySet

from tasks.models import Run, RunFeed, RunOwner, SharedPoll
from tasks.runs import due, store
from tasks.runs.copies import RunCopy
from tasks.runs.due import EVER, NEVER, PollState, Unfinished
from tasks.runs.owners import ACCOUNT_TAG
from tasks.runs.polling import MAX_PAGE, Poller, mark_absent, shared_poll_as_of
from tasks.runs.task_polls import oldest_in_question

# An account's own list is read at least this often while it is watched, down to the last poll and to the oldest of its
# newest unfinished runs.
EVERY = timedelta(minutes=5)
MAX_PAGES = 10
# Unfinished runs that one poll retrieves, because its list lacks them. The others are not certain meanwhile.
MAX_RETRIEVED = 5
# Rows that one statement changes.
CHUNK = 500


class FeedPoller(Poller[RunFeed]):
    rows = RunFeed.objects
    outcome = "account"

    def read(self, row: RunFeed) -> None:
        began = self.now()
        unfinished = list(unfinished_of(row.account_id).defer("data"))
        state = as_state(unfinished, row.polled_at or NEVER)
        copies = self.read_list(row, oldest_in_question(state, began=began, is_deep=False))
        listed = {copy.id for copy in copies}
        missing = [run for run in unfinished if run.pk not in listed]
        copies += self.retrieve_some(missing)
        shared_as_of = shared_poll_as_of()
        store.store_listed(copies, as_of=began, shared_as_of=shared_as_of, at=self.now(), with_new=True)
        found = {copy.id for copy in copies}
        lost = [run.pk for run in missing if run.pk not in found]
        for start in range(0, len(lost), CHUNK):
            runs = Run.objects.filter(pk__in=lost[start : start + CHUNK])
            mark_absent(runs, polled_at=row.polled_at, shared_as_of=shared_as_of)
        next_poll = min(next_poll_of(row.account_id, began, shared_as_of=shared_as_of), began + EVERY)
        RunFeed.objects.filter(pk=row.pk).update(polled_at=began, next_poll_at=next_poll)

    def read_list(self, feed: RunFeed, reach: datetime) -> list[RunCopy]:
        """Down to `reach`, or as many pages as there may be. The first time one page."""
        copies = list[RunCopy]()
        most = MAX_PAGES if feed.polled_at is not None else 1
        tag = f"{ACCOUNT_TAG}{feed.account_id}"
        for _, listed in islice(self.pages(self.client.list_runs, tag=tag, limit=MAX_PAGE), most):
            copies += listed
            if copies and copies[-1].created_at < reach:
                break
        return copies

    def retrieve_some(self, missing: list[Run]) -> list[RunCopy]:
        """Of the unfinished runs that the list lacks, those first that have been uncertain for longest."""
        longest = sorted(missing, key=lambda run: (run.absent_at or EVER, run.created_at))
        return [copy for run in longest[:MAX_RETRIEVED] if (copy := self.retrieve(run))]


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
