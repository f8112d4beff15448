"""The shared list of unfinished runs: one list for all watched tasks and accounts that have some, where they are many.

It updates stored runs only: a new one comes with the poll of its task. A stored run that it lacks may have finished.
"""

from datetime import datetime, timedelta

from django.db import transaction

from tasks.models import Run, RunFeed, RunOwner, SharedPoll, Task
from tasks.runs import due, store
from tasks.runs.polling import LEASE, MAX_PAGE, MIN_RETRY, POLLS, Calls, last_certain, shared_poll_as_of
from tasks.runs.store import read_copies
from tasks.trigger import errors

# Used when more tasks and accounts are watched with unfinished runs than twice its pages, and at least this many.
MIN_SHARED = 3
SHARED_PAUSE = timedelta(seconds=2)
# While it is too long to be used: how soon its length counts half.
FORGET_AFTER = timedelta(minutes=1)


class SharedPoller(Calls):
    def poll(self) -> bool:
        """Whether it was read."""
        began = self.now()
        most = self.claim(began)
        seen, after, pages = set[str](), None, 0
        try:
            while pages < most and (pages == 0 or after is not None):
                page = self.client.list_unfinished_runs(limit=MAX_PAGE, after=after, deadline=self.next_deadline())
                copies = read_copies(page.runs)
                shared_as_of = shared_poll_as_of()
                store.store_listed(copies, as_of=began, shared_as_of=shared_as_of, at=self.now(), with_new=False)
                seen |= {copy.id for copy in copies}
                after, pages = page.next, pages + 1
        except errors.TriggerError:
            SharedPoll.objects.update(next_at=self.now() + MIN_RETRY)
            SharedPoll.objects.filter(pages__lt=pages).update(pages=pages)
            POLLS.labels("failed").inc()
            return False
        if after is not None:
            self.give_up(pages + 1)
        elif pages:
            self.finish(seen, began=began, pages=pages)
            POLLS.labels("shared").inc()
        return pages > 0 and after is None

    def claim(self, now: datetime) -> int:
        """How many pages are worth it: fewer than half of the polls that it saves. 0: it is not read now."""
        with transaction.atomic():
            SharedPoll.objects.get_or_create(pk=1, defaults={"next_at": now})
            shared = SharedPoll.objects.select_for_update().get()
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
        unfinished = Run.objects.filter(is_final=False, absent_at__isnull=True)
        absent = unfinished.filter(stored_at__lt=began - due.SHARED_GRACE).exclude(pk__in=seen)
        with transaction.atomic():
            tasks = store.lock_tasks(Task.objects.filter(pk__in=absent.values("task")))
            for run in absent.filter(task__in=tasks).select_related("task").order_by("pk"):
                certain = last_certain(run, run.task.polled_at if run.task else None, before)
                Run.objects.filter(pk=run.pk).update(absent_at=certain)
                task = Task.objects.filter(runs=run)
                task.filter(next_poll_at__gt=self.now()).update(next_poll_at=self.now())
                task.filter(quiet_until__gt=certain).update(quiet_until=certain)
            for run in absent.filter(task=None).order_by("pk"):
                unfinished.filter(pk=run.pk).update(absent_at=last_certain(run, None, before))
            pause = max(SHARED_PAUSE, timedelta(seconds=pages / 3))
            SharedPoll.objects.update(as_of=began, next_at=began + pause, pages=pages)


def count_with_unfinished(now: datetime) -> int:
    """The watched tasks and accounts that would otherwise be polled each for its unfinished runs."""
    tasks = Task.objects.filter(watched_until__gt=now, unfinished_stored_at__isnull=False).count()
    owners = RunOwner.objects.filter(run__in=Run.objects.filter(task=None, is_final=False)).values("account_id")
    return tasks + RunFeed.objects.filter(watched_until__gt=now, account_id__in=owners).count()
