"""Random interleavings: the real pollers and writes against a stand-in with lagging replicas, on a clock that we move.

A play is what may happen within minutes: tasks fire early or late, are edited, run by hand and deleted; several
processes poll, and calls fail, hang, or are answered from the past; processes freeze and are killed. While a call is
under way everything else goes on, nested in it. Readers check each answer that is shown as fresh. At the end the
trouble ends, and everything must become right. shared/due_model.py is the model of it.
"""

import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import time_machine
from django.db import transaction
from django.db.models import F, Min
from django.utils import timezone

from accounts.events import account_actor
from demo.standin import run_json, schedules
from demo.standin.faults import Fault
from demo.standin.messages import Request
from demo.standin.replicas import Replicas
from demo.standin.standin import Standin
from demo.standin.state import StandinRun, State
from tasks import writes
from tasks.cron import calendar
from tasks.gateway import upstream
from tasks.models import MissedRun, Run, SharedPoll, Task
from tasks.runs import reading, run_now
from tasks.runs.copies import FINAL
from tasks.runs.due import RunsStatus
from tasks.runs.polling import shared_poll_as_of
from tasks.runs.shared import SharedPoller
from tasks.runs.task_polls import TaskPoller
from tasks.schedules import settling
from tasks.trigger import errors
from tasks.trigger.client import TriggerClient
from tasks.trigger.responses import read_answer
from tests.cast import TESTER, Cast
from tests.conftest import TRIGGER_KEY, TRIGGER_URL

BEGIN = datetime(2026, 11, 24, 11, 58, tzinfo=UTC)
# What a reader is promised: at most ten seconds behind the lists.
PROMISED = timedelta(seconds=10)
CRONS = ("* * * * *", "*/2 * * * *", "0 12 * * *", "*/3 * * * *", "1 12 * * *")
MAX_DEPTH = 3
# Steps in which everything becomes right after the trouble. Schedules do not fire any more.
MAX_STEPS = 300


class Killed(BaseException):
    """SIGKILL: no more code of the process runs."""


class PlayClient(TriggerClient):
    """Calls the stand-in without HTTP. The play decides what happens to the call."""

    def __init__(self, play: "Play") -> None:
        super().__init__(TRIGGER_URL, TRIGGER_KEY)
        self.play = play

    def _exchange(self, prepared: Any, *, deadline: float) -> Any:
        request = Request(prepared.method, prepared.path_url, dict(prepared.headers), b"")
        reply = self.play.call(request)
        response: Any = SimpleNamespace(status_code=reply.status, headers=reply.headers)
        return read_answer(response, reply.body)


class Play:
    def __init__(self, seed: int, cast: Cast, trigger: Standin, clock: time_machine.Traveller) -> None:
        self.random = r = random.Random(seed)
        self.cast, self.trigger, self.clock = cast, trigger, clock
        clock.move_to(BEGIN + timedelta(seconds=r.uniform(0, 59)))
        offset = timedelta(seconds=r.uniform(-2, 2))
        trigger.state.close()
        trigger.state = State(clock=lambda: timezone.now() + offset)
        trigger.rate_limit = 0
        upstream.finish()  # its circuit breakers must not depend on the play before
        self.trouble = r.choice((0, 1, 1, 2))
        trigger.state.replicas = Replicas(random.Random(r.random()), drops=0.2 if self.trouble else 0.0)
        self.stalls = 0.01 if r.random() < 0.7 else 0.04
        self.until = timezone.now() + timedelta(seconds=r.choice((100, 100, 120, 120, 200, 200, 300, 500)))
        self.is_crowded = r.random() < 0.12
        self.page_size = r.choice((2, 3, 100)) if self.is_crowded else r.choice((5, 100))
        self.outages, self.service_stops = self.some_outages(), self.some_outages()
        self.engine_stops = self.some_outages()
        self.events: list[tuple[datetime, int, Callable[[], object]]] = []
        self.order, self.depth = itertools.count(), 0
        client = PlayClient(self)
        self.poller = TaskPoller(client, timezone.now, lambda: time.monotonic() + 1000)
        self.shared = SharedPoller(client, timezone.now, lambda: time.monotonic() + 1000)
        self.complaints, self.fresh_readings = Counter[str](), 0
        self.versions = dict[str, int]()
        self.is_over = False

    @property
    def now(self) -> datetime:
        return timezone.now()

    def some_outages(self) -> list[tuple[datetime, datetime]]:
        if self.random.random() > 0.3:
            return []
        begin = self.now + timedelta(seconds=self.random.uniform(10, 200))
        return [(begin, begin + timedelta(seconds=self.random.choice((20, 60, 150, 400))))]

    def is_within(self, periods: list[tuple[datetime, datetime]]) -> bool:
        return not self.is_over and any(begin <= self.now < end for begin, end in periods)

    # --- Time --------------------------------------------------------------------------------------------------------

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        heapq.heappush(self.events, (self.now + timedelta(seconds=seconds), next(self.order), action))

    def pass_time(self, seconds: float) -> None:
        """Everything that comes meanwhile is done, a few levels deep."""
        end = self.now + timedelta(seconds=seconds)
        if self.depth < MAX_DEPTH:
            self.depth += 1
            while self.events and self.events[0][0] <= end:
                at, _, action = heapq.heappop(self.events)
                self.move_to(at)
                action()
            self.depth -= 1
        self.move_to(end)

    def move_to(self, at: datetime) -> None:
        if at > self.now:
            self.clock.move_to(at)

    # --- Calls of the pollers ----------------------------------------------------------------------------------------

    def call(self, request: Request) -> Any:
        r, kind = self.random, self.random.random()
        size = int(request.query.get("page[size]", "1"))
        smaller = request.target.replace(f"page%5Bsize%5D={size}", f"page%5Bsize%5D={min(size, self.page_size)}")
        request = replace(request, target=smaller)
        if self.is_over:
            return self.trigger.answer(request)
        if self.is_within(self.outages) or kind < 0.04 * self.trouble:
            self.pass_time(5 if r.random() < 0.3 else 0.1)
            raise errors.Failed("500")
        if kind < 0.055 * self.trouble:
            self.pass_time(5)
            raise errors.TimedOut("the play")
        seconds = r.uniform(1, 8) if kind < 0.08 * self.trouble else r.uniform(0.05, 0.3)
        before = seconds * r.random()
        if seconds > 5:
            self.pass_time(5)
            raise errors.TimedOut("the play")
        self.pass_time(before)
        reply = self.trigger.answer(request)
        self.pass_time(seconds - before)
        if r.random() < self.stalls * self.trouble:
            self.pass_time(r.uniform(5, 60))
        if r.random() < 0.004 * self.trouble:
            raise Killed
        return reply

    # --- Who acts ----------------------------------------------------------------------------------------------------

    def process(self) -> None:
        """One step of one process, and the next one later."""
        work, pause = self.poller, self.random.uniform(0.5, 3)
        try:
            if self.is_within(self.service_stops) or not self.is_something_due():
                return
            self.shared.poll()
            for task in work.claim(self.random.choice((1, 2, 8))):
                work.poll(task)
                pause = self.random.uniform(0.05, 0.2)
        except Killed:
            pause = self.random.uniform(0.5, 20)
        finally:
            self.at(pause, self.process)

    def is_something_due(self) -> bool:
        """A step finds that out too, in more queries."""
        unfinished = Task.objects.filter(unfinished_stored_at__isnull=False, watched_until__gt=self.now)
        is_shared_due = SharedPoll.objects.filter(next_at__lte=self.now).exists()
        return Task.objects.filter(next_poll_at__lte=self.now).exists() or (is_shared_due and unfinished.exists())

    def engine(self) -> None:
        if not self.is_within(self.engine_stops):
            schedules.fire_due(self.trigger.state, ahead=self.random.choice((0.0, 0.0, 10.0, 30.0)))
            for run in self.trigger.state.newest_runs(schedule_ids=[], tags=[], since=0.0):
                if run.ends_after == 10.0:
                    self.vary(run)
        self.at(self.random.choice((1.0, 5.0, 20.0, 50.0)), self.engine)

    def vary(self, run: StandinRun) -> None:
        """Runs start and end at other times."""
        start = self.random.uniform(0.1, 4)
        self.trigger.state.remove_run(run.id)
        lengths = (60.0, 90.0) if self.is_crowded else (0.15, 1.0, 5.0, 20.0, 60.0)
        run.starts_after, run.ends_after = start, start + self.random.choice(lengths) + 0.001
        run.pauses = sorted(start + self.random.uniform(0.1, 60) for _ in range(self.random.choice((0, 1, 4))))
        self.trigger.state.add_run(run)

    def settle(self) -> None:
        settling.settle_pending()
        self.at(5, self.settle)

    def reader(self) -> None:
        self.check_readings()
        if self.random.random() < 0.6:
            ids = [task.pk for task in Task.objects.living() if self.random.random() < 0.8]
            reading.renew(ids, now=self.now)
        self.at(self.random.uniform(1, 6), self.reader)

    def run_by_hand(self, task_id: UUID, is_lost: bool) -> None:
        """Sometimes Trigger.dev starts the run, and the answer is lost."""
        task = Task.objects.living().filter(pk=task_id).first()
        if task is None:
            return
        if is_lost:
            self.trigger.faults.add(Fault("reset", method="POST", path="*/trigger", times=2))
        with suppress(errors.TriggerError):
            run_now.start(task, actor=account_actor(self.cast.alice), at=self.now, deadline=time.monotonic() + 1000)
        self.trigger.faults.clear()
        for run in self.trigger.state.newest_runs(schedule_ids=[], tags=[f"task:{task_id}"], since=0.0):
            if run.ends_after == 10.0:
                self.vary(run)

    def run_by_others(self, task_id: UUID) -> None:
        """With our tags, but not through us: a deep poll finds it, where the task was ever run by hand."""
        tags = [f"account:{self.cast.alice.pk}", f"task:{task_id}"]
        run = StandinRun("customer-prompt-task", self.trigger.state.now, tags=tags, idempotency_key=f"others-{task_id}")
        run.ends_after = 11.0  # as it is: nothing varies it later
        self.trigger.state.add_run(run)

    def edit(self, task_id: UUID) -> None:
        task = Task.objects.living().filter(pk=task_id).first()
        if task is None:
            return
        if self.random.random() < 0.3:
            self.trigger.faults.add(Fault("status", status=500, path="/api/v1/schedules*", times=4))
        changes = self.random.choice(
            ({"schedule": self.random.choice(CRONS)}, {"schedule": self.random.choice(CRONS)}, {"enabled": False})
        )
        if task.enabled is False:
            changes = {"enabled": True}
        writes.update_task(task, changes, actor=TESTER, at=self.now)
        self.trigger.faults.clear()

    def delete(self, task_id: UUID) -> None:
        task = Task.objects.living().filter(pk=task_id).first()
        if task is not None:
            writes.delete_task(task, actor=TESTER, at=self.now)

    def lose_schedule(self, task_id: UUID) -> None:
        """Somebody deletes the schedule at Trigger.dev, and it is made again: its runs are in no list any more."""
        task = Task.objects.living().filter(pk=task_id).first()
        if task is not None and task.trigger_schedule_id and not task.lease_until:
            self.trigger.state.remove_schedule(task.trigger_schedule_id)
            Task.objects.filter(pk=task_id).update(generation=F("generation") + 1)
            settling.settle(task_id, at=self.now)

    # --- What is checked ---------------------------------------------------------------------------------------------

    def check_readings(self) -> None:
        """Of all that the lists have shown for ten seconds, what is fresh shows at least as much."""
        shared_as_of = shared_poll_as_of()
        for task in Task.objects.living():
            if reading.status_of(task, shared_as_of=shared_as_of, now=self.now)[0] is not RunsStatus.FRESH:
                continue
            self.fresh_readings += 1
            rows = Run.objects.filter(task=task).in_bulk()
            self.check_versions(rows)
            for run, version in self.listed(task, until=self.now - PROMISED):
                stored = rows.get(run.id)
                if stored is None and self.is_exempt(run, task):
                    continue
                if stored is None:
                    self.complaints["fresh, but a run is missing"] += 1
                elif version_of(stored, run) < version:
                    self.complaints["fresh, but an old status"] += 1

    def check_versions(self, rows: Mapping[str, Run]) -> None:
        """A newer copy is never replaced by an older one."""
        for stored in rows.values():
            run = self.trigger.state.run(stored.pk)
            version = version_of(stored, run) if run is not None else 0
            self.complaints["an older copy after a newer one"] += version < self.versions.get(stored.pk, 0)
            self.versions[stored.pk] = version

    def is_exempt(self, run: StandinRun, task: Task) -> bool:
        """A fire that was only possible, and late; a run by others; and a second run of the same time.

        Trigger.dev makes that where a schedule is written after it has fired ahead of its time.
        """
        created = datetime.fromtimestamp(run.created, UTC)
        if run.schedule is not None and Run.objects.filter(task=task, is_scheduled=True, created_at=created).exists():
            return True
        if run.schedule is None:
            return (run.idempotency_key or "").startswith("others")
        fires = calendar.fires(task.calendar, since=created, until=created)
        is_certain = any(fire.at == created and fire.is_certain for fire in fires)
        return not is_certain and self.now > created + timedelta(seconds=118)

    def listed(self, task: Task, *, until: datetime) -> list[tuple[StandinRun, int]]:
        """The newest five runs from before that every replica had by then, with the version that each showed."""
        found, state = [], self.trigger.state
        at = until.timestamp() + (state.now - self.now.timestamp())
        for run in self.runs_of(task):
            seen_at = at - state.replicas.greatest_lag(run) if state.replicas else at
            if (run.inserted or 0.0) <= seen_at and run.created <= until.timestamp():
                found.append((run, run_json.version_at(run, now=seen_at)))
        return found[:5]

    def runs_of(self, task: Task) -> list[StandinRun]:
        """Newest first. The schedule's, and those by hand."""
        state = self.trigger.state
        scheduled = state.newest_runs(schedule_ids=[task.trigger_schedule_id or "none"], tags=[], since=0.0)
        tagged = state.newest_runs(schedule_ids=[], tags=[f"task:{task.pk}"], since=0.0)
        runs = {run.id: run for run in (*scheduled, *tagged)}
        return sorted(runs.values(), key=lambda run: (run.created, run.id), reverse=True)

    def wrong(self) -> Counter[str]:
        """What is not as it must be in the end."""
        wrong = Counter[str]()
        for task in Task.objects.living():
            rows = {run.pk: run for run in Run.objects.filter(task=task)}
            owed = [
                run
                for run in self.runs_of(task)
                if task.run_by_hand_at is not None or not (run.idempotency_key or "").startswith("others")
            ]
            for number, run in enumerate(owed):
                row = rows.get(run.id)
                if (
                    row is None
                    and run.schedule is not None
                    and any(
                        other.is_scheduled and other.created_at.timestamp() == run.created for other in rows.values()
                    )
                ):
                    continue
                if row is None:
                    is_older = run.created < BEGIN.timestamp() and number >= 5
                    wrong["a run is missing for ever"] += not is_older
            for row in rows.values():
                wrong["unfinished for ever"] += row.status not in FINAL and self.has_ended(row.pk)
            newest = sorted(rows.values(), key=lambda run: (run.created_at, run.pk), reverse=True)[:5]
            wrong["the newest five are others"] += task.recent_runs != ",".join(run.data for run in newest)
        return +wrong

    def has_ended(self, run_id: str) -> bool:
        run, now = self.trigger.state.run(run_id), self.trigger.state.now
        return run is not None and run_json.version_at(run, now=now) == len(run_json.history(run)) - 1

    def check_missed(self) -> None:
        for task in Task.objects.living():
            ran = [datetime.fromtimestamp(run.created, UTC) for run in self.runs_of(task)]
            self.complaints["a false missed"] += MissedRun.objects.filter(task=task, expected_at__in=ran).count()

    # --- The play ----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        r = self.random
        for _ in range(7 if self.is_crowded else r.choice((1, 2, 2, 4))):
            fields = {
                "id": UUID(int=r.getrandbits(128)),
                "title": "t",
                "prompt": "p",
                "schedule": "* * * * *" if self.is_crowded else r.choice(CRONS),
                "account_id": self.cast.alice.pk,
                "artist_account_id": self.cast.artist.pk,
            }
            self.plan_events(writes.create_task(fields, actor=TESTER, at=self.now))
        for _ in range(r.choice((1, 2, 3))):
            self.at(r.uniform(0, 2), self.process)
        for action in (self.engine, self.settle, self.reader):
            self.at(r.uniform(0, 2), action)

    def plan_events(self, task: Task) -> None:
        r = self.random
        if r.random() < 0.3:
            self.make_imported(task)
        if r.random() < 0.3:
            at, is_burst = r.uniform(5, 250), r.random() < 0.2
            for _ in range(8 if is_burst else 1):
                self.at(at, partial(self.run_by_hand, task.pk, is_burst or r.random() < 0.3))
            if r.random() < 0.3:
                self.at(r.uniform(5, 250), partial(self.run_by_others, task.pk))
        for _ in range(r.choice((0, 0, 1, 2))):
            self.at(r.uniform(5, 250), partial(self.edit, task.pk))
        if r.random() < 0.1:
            self.at(r.uniform(20, 250), partial(self.delete, task.pk))
        if r.random() < 0.1:
            self.at(r.uniform(20, 250), partial(self.lose_schedule, task.pk))

    def make_imported(self, task: Task) -> None:
        """A task with older runs that was never polled."""
        task = Task.objects.get(pk=task.pk)
        schedule = {"id": task.trigger_schedule_id, "externalId": str(task.pk)}
        for hours in range(1, 8):
            created = (BEGIN - timedelta(hours=hours)).timestamp()
            run = StandinRun("customer-prompt-task", created, schedule=schedule, kind="SCHEDULED", inserted=created)
            run.ends_after = 11.0
            self.trigger.state.add_run(run)
        never: dict[str, Any] = {"polled_at": None, "deep_polled_at": None, "quiet_until": None, "fire_periods": []}
        Task.objects.filter(pk=task.pk).update(**never, next_poll_at=self.now, watched_poll_at=None)

    def run(self) -> Counter[str]:
        self.prepare()
        self.pass_time((self.until - self.now).total_seconds())
        self.is_over, self.events = True, []
        if self.trigger.state.replicas is not None:
            self.trigger.state.replicas.drops = 0.0
        for task in Task.objects.living():
            # Without making it due, as a write would.
            periods = calendar.confirm(calendar.change(task.calendar, None, task.timezone, at=self.now), at=self.now)
            Task.objects.filter(pk=task.pk).update(enabled=False, fire_periods=calendar.to_json(periods))
        for _ in range(MAX_STEPS):
            wrong = self.wrong()
            if not wrong:
                break
            self.take_steps()
            self.check_missed()
        return +(self.complaints + wrong)

    def take_steps(self) -> None:
        """At the next moment at which something is due."""
        settling.settle_pending()
        work = self.poller
        self.shared.poll()
        for task in work.claim(8):
            work.poll(task)
        next_at = Task.objects.aggregate(at=Min("next_poll_at"))["at"] or self.now
        shared = SharedPoll.objects.first()
        if shared is not None and shared.as_of is not None:
            next_at = min(next_at, shared.next_at)
        soon, later = self.now + timedelta(seconds=1), self.now + timedelta(hours=6)
        self.move_to(min(max(next_at, soon), later))


def version_of(stored: Run, run: StandinRun) -> int:
    """The index of the stored copy in the run's history. A copy made by ourselves is the first."""
    if stored.status in FINAL:
        return len(run_json.history(run)) - 1
    return max(0, run_json.version_at(run, now=stored.updated_at.timestamp() + 0.0011))


def play(seed: int, cast: Cast, trigger: Standin, clock: time_machine.Traveller) -> Play:
    """Plays, and leaves the database as it was. `complaints` says what went wrong."""
    one = Play(seed, cast, trigger, clock)
    with transaction.atomic():
        one.complaints = one.run()
        transaction.set_rollback(True)
    return one
