"""Tasks with what Trigger.dev knows of them: their newest runs, and when they run next.

A list of any length costs no query, and what is known of its runs one look into the cache. What is not known costs one
question a scheduled task, one more for a task that somebody has run by hand, all asked at once.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter

from tasks.models import Task
from tasks.runs import fires, queries, snapshots
from tasks.runs.fires import Fire
from tasks.runs.known import Known, RunsStatus
from tasks.runs.owners import TASK_TAG, owned_through_schedule, owned_through_tag
from tasks.runs.queries import RECENT, Source
from tasks.trigger.types import Run

# The payloads of more new runs than this are not fetched at once: each comes when its task's next run does.
MOST_LEARNT = 3


@dataclass(frozen=True, slots=True)
class EnrichedTask:
    """`recent_runs` as JSON objects with commas between them."""

    task: Task
    recent_runs: bytes
    runs_status: RunsStatus
    runs_as_of: datetime | None
    upcoming: tuple[datetime, ...]


def enrich(tasks: Iterable[Task], *, now: datetime, deadline: float, only_fresh: bool = False) -> list[EnrichedTask]:
    """`deadline`: seconds of `time.monotonic()`, after which the tasks go out with what is known.

    `only_fresh`: until then it is waited for what is no longer fresh.
    """
    tasks = list(tasks)
    wanted = {source: task for task in tasks for source in sources(task)}
    known, last_fires = queries.newest(wanted, now=now, deadline=deadline, only_fresh=only_fresh)
    learn_new(known, last_fires, wanted)
    return [enriched(task, known, last_fires.get(task.trigger_schedule_id or ""), now=now) for task in tasks]


def sources(task: Task) -> list[Source]:
    """Only a task that somebody has run by hand is asked about twice."""
    found = [Source("schedule", task.trigger_schedule_id)] if task.trigger_schedule_id else []
    return [*found, Source("tag", f"{TASK_TAG}{task.pk}")] if task.run_by_hand_at else found


def learn_new(known: Mapping[Source, Known], last_fires: Mapping[str, Fire], tasks: Mapping[Source, Task]) -> None:
    new = {
        source: one.snapshot.newest_id
        for source, one in known.items()
        if source.kind == "schedule" and one.snapshot and one.snapshot.newest_id
        if source.name not in last_fires or last_fires[source.name].run_id != one.snapshot.newest_id
    }
    if len(new) <= MOST_LEARNT:
        for source, run_id in new.items():
            fires.learn_behind(tasks[source], run_id)


def enriched(task: Task, known: Mapping[Source, Known], fire: Fire | None, *, now: datetime) -> EnrichedTask:
    mine = {source: known[source] for source in sources(task)}
    return EnrichedTask(
        task=task,
        recent_runs=newest_of(task, mine),
        runs_status=joint_status([one.status for one in mine.values()]),
        runs_as_of=min((one.as_of for one in mine.values() if one.as_of), default=None if mine else now),
        upcoming=fires.upcoming(task, fire, now=now),
    )


def newest_of(task: Task, known: Mapping[Source, Known]) -> bytes:
    """The newest five that are the task's account's, wherever they were found."""
    snapshots_of = {source: one.snapshot for source, one in known.items() if one.snapshot is not None}
    if len(snapshots_of) == 1:
        ((source, snapshot),) = snapshots_of.items()
        account = str(task.account_id)
        if source.kind == "schedule" and all(not tagged or account in tagged for tagged in snapshot.tags):
            return snapshot.encoded
    owned = {"schedule": owned_through_schedule, "tag": owned_through_tag}
    found: dict[str, Run] = {}
    for source, snapshot in snapshots_of.items():
        found |= {run["id"]: run for run in owned[source.kind](snapshot.runs(), task.account_id)}
    newest = sorted(found.values(), key=itemgetter("createdAt"), reverse=True)[:RECENT]
    return b",".join(snapshots.encoded(run) for run in newest)


def joint_status(statuses: Collection[RunsStatus]) -> RunsStatus:
    """Fresh when all are; what is known in part may lack the newest, as what is stale."""
    if all(status is RunsStatus.FRESH for status in statuses):
        return RunsStatus.FRESH
    is_unknown = all(status is RunsStatus.UNAVAILABLE for status in statuses)
    return RunsStatus.UNAVAILABLE if is_unknown else RunsStatus.STALE
