"""Polls of tasks: the runs of a task are read when its own schedule says that something has happened.

Runs of the schedule are found by it, those that were started by hand by the task's tag. `due` decides when.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

import prometheus_client
from django.db import transaction
from django.db.models import QuerySet

from tasks.cron import calendar
from tasks.models import MissedRun, Run, RunRequest, Task
from tasks.runs import due, store
from tasks.runs.copies import RunCopy
from tasks.runs.due import EVER, NEVER, PollState, Unfinished
from tasks.runs.owners import TASK_TAG
from tasks.runs.polling import MAX_PAGE, OVERLAP, Poller, mark_absent, shared_poll_as_of
from tasks.trigger import errors

# Places in a step that stay for unwatched tasks while watched ones are due.
FOR_UNWATCHED = 2
MIN_PAGE = 5
# Fires longer before a poll than this get no outcome: after an outage, a task that runs every minute has too many.
MAX_WINDOW = timedelta(hours=5)
# A poll reads back to the oldest unfinished run, but no further than so many of them, and than this age. Of those that
# no list had it retrieves so many, the longest uncertain first. The others become uncertain.
MAX_UNFINISHED_REACH, MAX_UNFINISHED_AGE, MAX_RETRIEVED = 50, timedelta(hours=1), 5
UNEXPECTED = prometheus_client.Counter("recoup_unexpected_runs", "Scheduled runs at a time that is no fire of ours.")

logger = logging.getLogger(__name__)


@dataclass
class TaskPoller(Poller[Task]):
    # Reads all runs that Trigger.dev still has.
    is_backfill: bool = False

    rows = Task.objects
    outcome = "ok"
    due_columns = ("next_poll_at", "watched_poll_at")

    def choose(self, is_due: QuerySet[Task], *, now: datetime, count: int) -> list[Task]:
        """Watched ones first. The others keep two places, so that they are never starved."""
        watched = super().choose(is_due, now=now, count=count)
        others = list(is_due.exclude(watched_until__gt=now)[:count])
        reserved = min(len(others), FOR_UNWATCHED if watched else count)
        return [*watched[: count - reserved], *others][:count]

    # --- Calls -------------------------------------------------------------------------------------------------------

    def read(self, row: Task) -> None:
        began = self.now()
        # The row as it is now: it may have been claimed a while ago.
        task = Task.objects.filter(pk=row.pk).first()
        if task is not None:
            self.commit(task.pk, self.find(task, began=began), began=began)

    def find(self, task: Task, *, began: datetime) -> "Found":
        """All calls of one poll. Raises a TriggerError when a list fails."""
        state = load_state(task)
        is_first = task.polled_at is None and not self.is_backfill
        is_deep = is_first or self.is_backfill or began >= state.deep_polled_at + due.DEEP_EVERY * 0.74
        found = Found(is_deep=is_deep)
        reach = NEVER if self.is_backfill else oldest_in_question(state, began=began, max_age=MAX_UNFINISHED_AGE)
        if task.trigger_schedule_id:
            self.read_list(found, reach, state, is_first=is_first, schedule_id=task.trigger_schedule_id)
        if needs_tag(task, state, is_deep=is_deep):
            self.read_list(found, reach, state, is_first=is_first, tag=f"{TASK_TAG}{task.pk}")
        if not task.trigger_schedule_id and task.unsettled_until is not None:
            # The answer to its create was lost: a schedule that nobody knows may fire, so this is no poll of the task.
            copies, shared_as_of = [copy for copy, _ in found.copies], shared_poll_as_of()
            store.store_listed(copies, as_of=began, shared_as_of=shared_as_of, at=self.now(), with_new=True)
            raise errors.NotSent("the schedule of the task is not known yet", retry_after=0, reason="no_schedule")
        self.retrieve_missing(found, task)
        return found

    def read_list(self, found: "Found", reach: datetime, state: PollState, *, is_first: bool, **which: str) -> None:
        """Pages down to `reach`, and at least five runs; in a deep poll a hundred."""
        expected = sum(fire.at >= reach for fire in state.fires)
        wanted, count = (MAX_PAGE if found.is_deep and not is_first else MIN_PAGE), 0
        size = max(wanted, min(MAX_PAGE, MIN_PAGE + expected))
        for page, copies in self.pages(self.client.list_runs, limit=size, **which):
            found.copies += [(copy, "schedule_id" in which) for copy in copies]
            count += len(page.runs)
            if count >= wanted and (is_first or not copies or copies[-1].created_at < reach):
                return

    def retrieve_missing(self, found: "Found", task: Task) -> None:
        """Unfinished runs that no list had, and copies that only a retrieve can put in order."""
        copies = {copy.id: copy for copy, _ in found.copies}
        unfinished = Run.objects.filter(task=task, is_final=False).defer("data")
        missing = [run for run in unfinished if run.pk not in copies or store.is_tie(copies[run.pk], run)]
        missing.sort(key=lambda run: (run.absent_at or EVER, run.created_at))
        retrieved = [(self.retrieve(run), run) for run in missing[:MAX_RETRIEVED]]
        found.copies += [(copy, run.is_scheduled) for copy, run in retrieved if copy is not None]
        found.lost += [run.pk for copy, run in retrieved if copy is None]
        found.lost += [run.pk for run in missing[MAX_RETRIEVED:]]

    # --- The transaction ---------------------------------------------------------------------------------------------

    def commit(self, task_id: UUID, found: "Found", *, began: datetime) -> None:
        """Everything in one transaction, by the row as it is now: it may have changed during the calls."""
        with transaction.atomic():
            task = Task.objects.select_for_update().get(pk=task_id)
            shared_as_of = shared_poll_as_of()
            was_first = task.polled_at is None
            store.store(found.copies, task, as_of=began, shared_as_of=shared_as_of, at=self.now())
            mark_absent(found.lost, polled_at=task.polled_at, shared_as_of=shared_as_of)
            if was_first:
                task.fire_periods = calendar.to_json(certain_from_now(task.calendar, began))
            since = max(task.polled_at or began, began - MAX_WINDOW) - due.MISSED_AFTER
            task.polled_at = max(began, task.polled_at or began)
            if found.is_deep:
                task.deep_polled_at = max(began, task.deep_polled_at or began)
            # Also runs that are not shown with the task, since their tags name others.
            seen = {copy.created_at: began for copy, is_scheduled in found.copies if is_scheduled}
            state = load_state(task, since=since, seen=seen)
            if self.has_other_calendar(task, state, found, since=since):
                state = load_state(task, since=since, seen=seen)
            self.note_outcomes(task, state, found)
            plan(task, state, shared_as_of=shared_as_of, now=self.now())

    def has_other_calendar(self, task: Task, state: PollState, found: "Found", *, since: datetime) -> bool:
        """Whether scheduled runs show that Trigger.dev fires at other times than we thought. The task then knows it."""
        since = max(since, task.schedule_changed_at + due.MISSED_AFTER)
        times = (copy.created_at for copy, is_scheduled in found.copies if is_scheduled)
        ran, expected = {at for at in times if at > since}, {fire.at for fire in state.fires}
        for at in sorted(ran - expected):
            UNEXPECTED.inc()
            logger.error("Task %s: a run at %s is no fire of its cron expression", task.pk, at)
        is_shifted = any(period.shift for period in task.calendar)
        periods = calendar.learn(task.calendar, ran) if is_shifted or not ran <= expected else task.calendar
        if periods == task.calendar:
            return False
        task.fire_periods = calendar.to_json(periods)
        return True

    def note_outcomes(self, task: Task, state: PollState, found: "Found") -> None:
        missed = [MissedRun(task=task, expected_at=at, noticed_at=self.now()) for at in due.missed(state)]
        MissedRun.objects.bulk_create(missed, ignore_conflicts=True)
        ran = [copy.created_at for copy, is_scheduled in found.copies if is_scheduled]
        MissedRun.objects.filter(task=task, expected_at__in=ran).delete()


@dataclass
class Found:
    """What the calls of one poll brought: copies with whether they were found by schedule, and runs not found."""

    is_deep: bool
    copies: list[tuple[RunCopy, bool]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def load_state(
    task: Task, *, since: datetime | None = None, seen: Mapping[datetime, datetime] | None = None
) -> PollState:
    """The stored state that `due` needs: fires since MISSED_AFTER before the last poll, and the runs of these.

    `seen`: runs of the schedule that a poll has just found: when they were created, and when the poll began.
    """
    polled_at = task.polled_at
    since = since or (polled_at or task.created_at) - due.MISSED_AFTER
    scheduled = Run.objects.filter(task=task, is_scheduled=True, created_at__gte=since)
    known = {created_at: stored_at for created_at, stored_at in (seen or {}).items() if created_at >= since}
    known |= dict(scheduled.values_list("created_at", "stored_at"))
    # Trigger.dev fires up to 30 s ahead: the first fire after the last poll may be known, and the next one counts.
    until = max([polled_at, *known]) if polled_at else since
    fires = tuple(calendar.fires(task.calendar, since=since, until=until)) if polled_at else ()
    unfinished = Run.objects.filter(task=task, is_final=False).values_list("stored_at", "created_at", "absent_at")
    return PollState(
        polled_at=polled_at,
        deep_polled_at=task.deep_polled_at or NEVER,
        spread=spread_of(task),
        fires=fires,
        known=known,
        unfinished=tuple(Unfinished(*row) for row in unfinished),
        request_open_until=open_request_until(task),
    )


def open_request_until(task: Task) -> datetime:
    """Of the newest run request without an answer."""
    if task.run_by_hand_at is None:
        return NEVER
    newest = RunRequest.objects.filter(task=task, run_id__isnull=True).order_by("-requested_at").first()
    return newest.requested_at + due.REQUEST_OPEN_FOR if newest else NEVER


def plan(task: Task, state: PollState, *, shared_as_of: datetime, now: datetime) -> None:
    """Stores when the task is due, and until when its runs are certainly what Trigger.dev has."""
    is_watched = task.watched_until is not None and task.watched_until > now
    stored_at = [run.stored_at for run in state.unfinished if run.absent_at is None]
    quiet_until = due.quiet_until(state)
    watched_poll = due.next_poll(state, is_watched=True, shared_as_of=shared_as_of)
    next_poll = watched_poll if is_watched else due.next_poll(state, is_watched=False, shared_as_of=shared_as_of)
    Task.objects.filter(pk=task.pk).update(
        polled_at=task.polled_at,
        deep_polled_at=task.deep_polled_at,
        fire_periods=task.fire_periods,
        next_poll_at=None if task.deleted_at else next_poll,
        watched_poll_at=None if task.deleted_at else watched_poll,
        quiet_until=quiet_until if quiet_until > NEVER else None,
        unfinished_stored_at=max(stored_at, default=None),
        **store.newest_of(task),
    )


def initial_plan(task: Task, *, at: datetime) -> dict[str, datetime | None]:
    """The columns of a task that is created now: it has no runs, and is due after its first fire."""
    fires = tuple(calendar.fires(task.calendar, since=at, until=at))
    state = PollState(polled_at=at, deep_polled_at=at, spread=spread_of(task), fires=fires)
    return {
        "polled_at": at,
        "deep_polled_at": at,
        "quiet_until": due.quiet_until(state),
        "next_poll_at": due.next_poll(state, is_watched=False, shared_as_of=NEVER),
        "watched_poll_at": due.next_poll(state, is_watched=True, shared_as_of=NEVER),
    }


def spread_of(task: Task) -> float:
    """Spreads polls of unwatched tasks that fire at the same time."""
    return task.pk.int % 1000 / 1000


def oldest_in_question(state: PollState, *, began: datetime, max_age: timedelta | None = None) -> datetime:
    """How far back a poll reads: to the oldest thing that may have changed. Unfinished runs count up to `max_age`."""
    if state.polled_at is None:
        return NEVER
    waited_for = [at for at in due.awaited(state) if at <= began]
    since = began - max_age if max_age is not None else NEVER
    newest_first = sorted((run.created_at for run in state.unfinished if run.created_at > since), reverse=True)
    return min([state.polled_at - OVERLAP, *waited_for, *newest_first[:MAX_UNFINISHED_REACH]])


def needs_tag(task: Task, state: PollState, *, is_deep: bool) -> bool:
    """Runs that were started by hand are found by the task's tag only."""
    if task.run_by_hand_at is None or state.polled_at is None:
        return task.run_by_hand_at is not None
    has_unfinished = Run.objects.filter(task=task, is_final=False, is_scheduled=False).exists()
    return is_deep or has_unfinished or state.polled_at < state.request_open_until


def certain_from_now(periods: Sequence[calendar.Period], at: datetime) -> list[calendar.Period]:
    """Fires from before the first poll are only possible: the runs may be older than what the poll has read."""
    return [
        replace(period, certain_from=max(period.certain_from or at, at)) if period.possible_from is None else period
        for period in periods
    ]
