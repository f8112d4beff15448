"""The two lists that serve many tasks and accounts at once.

The *unfinished* runs, where so many are followed that one list is cheaper. It updates stored runs only: a new one
comes with the poll of its task. A stored run that it lacks may have finished. The *newest* runs, while somebody watches
a list of runs: its items carry their tags, so it brings the runs of no task to all accounts.
"""

from datetime import datetime, timedelta
from itertools import islice

from django.db import transaction
from django.db.models import F

from tasks.models import Run, RunFeed, RunOwner, SharedPoll, Task
from tasks.runs import due, store
from tasks.runs.polling import LEASE, MAX_PAGE, MIN_RETRY, OVERLAP, POLLS, Calls, mark_absent, shared_poll_as_of
from tasks.trigger import errors

# Used when more tasks and accounts are watched with unfinished runs than twice its pages, and at least this many.
MIN_SHARED = 3
SHARED_PAUSE = timedelta(seconds=2)
# While it is too long to be used: how soon its length counts half.
FORGET_AFTER = timedelta(minutes=1)
# Whose rows are locked together: a write of one of them waits.
TASKS_AT_ONCE = 50
NEWEST_PAUSE = timedelta(seconds=4)
# How much later than it was created a run may be listed.
LAG = timedelta(seconds=30)
# After a longer pause, or more runs, the newest ones begin anew: what lies between is left to the accounts' own lists.
MAX_GAP, MAX_NEWEST_PAGES = timedelta(minutes=10), 10


class NewestPoller(Calls):
    def poll(self) -> bool:
        """Whether the list was read: it is, while any list of runs is watched."""
        began = self.now()
        shared = self.claim(began)
        if shared is None:
            return False
        known_until, since = shared.newest_as_of, shared.newest_since
        reach = began - (LAG if shared.is_newest_cut else OVERLAP)
        if known_until is None or shared.is_newest_cut or began - known_until > MAX_GAP:
            since = None
        else:
            reach = known_until - OVERLAP
        oldest, is_cut = began, False
        pages = self.pages(self.client.list_newest_runs, since=reach, limit=MAX_PAGE)
        try:
            for page, copies in islice(pages, MAX_NEWEST_PAGES):
                store.store_listed(copies, as_of=began, shared_as_of=shared_poll_as_of(), at=self.now(), with_new=True)
                oldest, is_cut = min([oldest, *(copy.created_at for copy in copies)]), page.next is not None
        except errors.TriggerError:
            SharedPoll.objects.update(newest_next_at=self.now() + MIN_RETRY)
            POLLS.labels("failed").inc()
            return False
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

    def claim(self, now: datetime) -> SharedPoll | None:
        if not RunFeed.objects.filter(watched_until__gt=now).exists():
            return None
        with transaction.atomic():
            shared = locked_row(now)
            if shared.newest_next_at is not None and shared.newest_next_at > now:
                return None
            SharedPoll.objects.update(newest_next_at=now + LEASE)
        return shared


class SharedPoller(Calls):
    """Of the unfinished runs."""

    def poll(self) -> bool:
        """Whether it was read."""
        began = self.now()
        most = self.claim(began)
        seen, pages, is_whole = set[str](), 0, False
        listed = self.pages(self.client.list_unfinished_runs, limit=MAX_PAGE)
        try:
            for page, copies in islice(listed, most):
                pages += 1
                shared_as_of = shared_poll_as_of()
                store.store_listed(copies, as_of=began, shared_as_of=shared_as_of, at=self.now(), with_new=False)
                seen |= {copy.id for copy in copies}
                is_whole = page.next is None
        except errors.TriggerError:
            SharedPoll.objects.update(next_at=self.now() + MIN_RETRY)
            SharedPoll.objects.filter(pages__lt=pages).update(pages=pages)
            POLLS.labels("failed").inc()
            return False
        if is_whole:
            self.finish(seen, began=began, pages=pages)
            POLLS.labels("shared").inc()
        elif most:
            self.give_up(pages + 1)
        return is_whole

    def claim(self, now: datetime) -> int:
        """How many pages are worth it: fewer than half of the polls that it saves. 0: it is not read now."""
        with transaction.atomic():
            shared = locked_row(now)
            count = count_with_unfinished(now)
            is_wanted, is_due = count >= max(MIN_SHARED, 2 * shared.pages + 1), shared.next_at <= now
            if is_wanted and is_due:
                SharedPoll.objects.update(next_at=now + LEASE)
                return (count - 1) // 2
            is_over = not is_wanted and shared.as_of is not None
            if is_over:
                SharedPoll.objects.update(as_of=None)
            elif not is_wanted and is_due and shared.pages > 1:
                SharedPoll.objects.update(pages=shared.pages // 2, next_at=now + FORGET_AFTER)
        if is_over:
            self.poll_each(now)
        return 0

    def give_up(self, pages: int) -> None:
        """It is longer than what it saves, for example because of many runs of others."""
        SharedPoll.objects.update(as_of=None, pages=pages, next_at=self.now() + FORGET_AFTER)
        self.poll_each(self.now())

    def poll_each(self, now: datetime) -> None:
        """What the shared list served is polled task by task again: now, or once somebody watches it again."""
        served = Task.objects.filter(unfinished_stored_at__isnull=False, watched_poll_at__gt=now)
        with transaction.atomic():
            locked = Task.objects.filter(pk__in=list(store.lock_tasks(served)))
            locked.filter(watched_until__gt=now, next_poll_at__gt=now).update(next_poll_at=now)
            locked.update(watched_poll_at=now)

    def finish(self, seen: set[str], *, began: datetime, pages: int) -> None:
        """A stored run that the list lacked may have finished: its task is due now, and is not fresh before that."""
        before = shared_poll_as_of()
        unfinished = Run.objects.filter(is_final=False, absent_at=None, stored_at__lt=began - due.SHARED_GRACE)
        absent = [pair for pair in unfinished.order_by("pk").values_list("pk", "task") if pair[0] not in seen]
        mark_absent([pk for pk, task in absent if task is None], polled_at=None, shared_as_of=before)
        task_ids = sorted({task for _, task in absent if task is not None})
        for start in range(0, len(task_ids), TASKS_AT_ONCE):
            with transaction.atomic():
                some = store.lock_tasks(Task.objects.filter(pk__in=task_ids[start : start + TASKS_AT_ONCE]))
                runs = unfinished.filter(task__in=some, pk__in=[pk for pk, task in absent if task in some])
                for run in store.lock_runs(runs).values():
                    if run.task_id is not None:
                        self.doubt(run, some[run.task_id], shared_as_of=before)
        pause = max(SHARED_PAUSE, timedelta(seconds=pages / 3))
        SharedPoll.objects.update(as_of=began, next_at=began + pause, pages=pages)

    def doubt(self, run: Run, task: Task, *, shared_as_of: datetime) -> None:
        now, certain = self.now(), due.last_certain(run.stored_at, task.polled_at or run.stored_at, shared_as_of)
        Run.objects.filter(pk=run.pk).update(absent_at=certain)
        row = Task.objects.filter(pk=task.pk)
        row.filter(next_poll_at__gt=now).update(next_poll_at=now)
        row.filter(quiet_until__gt=certain).update(quiet_until=certain)


def count_with_unfinished(now: datetime) -> int:
    """The watched tasks and accounts that would otherwise be polled each for its unfinished runs."""
    tasks = Task.objects.filter(watched_until__gt=now, unfinished_stored_at__isnull=False).count()
    owners = RunOwner.objects.filter(run__is_final=False).exclude(run__task__account_id=F("account_id"))
    feeds = RunFeed.objects.filter(watched_until__gt=now, account_id__in=owners.values("account_id"))
    return tasks + feeds.count()


def locked_row(now: datetime) -> SharedPoll:
    return SharedPoll.objects.select_for_update().get_or_create(pk=1, defaults={"next_at": now})[0]
