"""The state of a task in one sentence for staff: why it does not run, and what to do. Pure: rows and the time go in."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from accounts.models import Event
from tasks.models import MissedRun, Run, SyncStatus, Task
from tasks.runs.copies import FAILED, FINAL

# Of the newest runs.
LOOKED_AT = 5


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class State:
    level: Level
    sentence: str
    advice: str = ""


def state_of(
    task: Task,
    *,
    runs: Sequence[Run],
    missed: MissedRun | None,
    events: Sequence[Event],
    last_error: str,
    upcoming: Sequence[datetime],
    now: datetime,
) -> State:
    """`runs` and `events` are the newest ones, newest first. `last_error`: of the newest failed run."""
    if task.deleted_at is not None:
        by = by_whom(newest(events, "deleted"))
        sentence = f"Deleted{by} on {day(task.deleted_at)}."
        return State(Level.NOTE, sentence, "It never runs again. Its runs remain for its owner.")
    if task.sync_status is SyncStatus.REFUSED:
        reason = task.sync_error.removeprefix("Trigger.dev refused the request: ") or "no reason was given"
        sentence = f"Trigger.dev refuses the schedule: {reason}."
        return State(Level.ERROR, sentence, "Change the schedule or the time zone. Until then it does not run.")
    if not task.is_enabled:
        event = newest_pause(events)
        when = f" on {day(event.at)}" if event else ""
        reason = f" Reason: {event.reason}" if event and event.reason else ""
        if task.sync_status is SyncStatus.PENDING:
            why = task.sync_error.rstrip(".") or "it is being written"
            sentence = f"Paused{by_whom(event)}{when}, and not yet at Trigger.dev: {why}. It may still run.{reason}"
            return State(Level.WARNING, sentence, "The worker tries again within a minute. Sync now tries at once.")
        return State(Level.NOTE, f"Paused{by_whom(event)}{when}.{reason}", "Resume it to let it run again.")
    if task.sync_status is SyncStatus.PENDING:
        reason = task.sync_error.rstrip(".") or "it is being written"
        since = ago(task.updated_at, now)
        sentence = f"Not yet at Trigger.dev since {since}: {reason}."
        if task.trigger_schedule_id is None:
            sentence = f"Never scheduled: {reason}. It was created {ago(task.created_at, now)} ago."
        return State(Level.WARNING, sentence, "The worker tries again within a minute. Sync now tries at once.")
    return running_state(runs, missed, last_error=last_error, upcoming=upcoming, now=now)


def running_state(
    runs: Sequence[Run], missed: MissedRun | None, *, last_error: str, upcoming: Sequence[datetime], now: datetime
) -> State:
    finished = [run for run in runs if run.status in FINAL][:LOOKED_AT]
    failed = [run for run in finished if run.status in FAILED]
    if missed is not None and not any(run.created_at > missed.expected_at for run in runs):
        sentence = f"Missed its run of {moment(missed.expected_at)}: Trigger.dev did not start one."
        return State(Level.ERROR, sentence, "Look at the schedule at Trigger.dev, or use Sync now.")
    if finished and finished[0].status in FAILED:
        error = f" The last error: {last_error}." if last_error else ""
        sentence = f"Failed {len(failed)} of the last {len(finished)} runs.{error}"
        return State(Level.ERROR, sentence, "Open the newest failed run for its payload and its error.")
    after = f" The next run is {until(upcoming[0], now)}." if upcoming else " It has no next run."
    if not runs:
        return State(Level.NOTE, f"Has not run yet.{after}")
    newest_run = runs[0]
    doing = f"The last run is {newest_run.status}, started {ago(newest_run.created_at, now)} ago."
    if failed:
        return State(Level.WARNING, f"{len(failed)} of the last {len(finished)} runs failed. {doing}{after}")
    return State(Level.OK, f"Runs as planned. {doing}{after}")


def newest(events: Sequence[Event], action: str) -> Event | None:
    return next((event for event in events if event.action == action), None)


def newest_pause(events: Sequence[Event]) -> Event | None:
    return next((event for event in events if event.after.get("enabled") is False), None)


def by_whom(event: Event | None) -> str:
    if event is None:
        return ""
    names = {"account": "its owner's side", "command": f"the command {event.actor_id}"}
    return f" by {names.get(event.actor_kind, event.actor_id)}"


def day(at: datetime) -> str:
    return f"{at:%d %b %Y}"


def moment(at: datetime) -> str:
    return f"{at:%d %b %Y %H:%M} UTC"


def ago(at: datetime, now: datetime) -> str:
    return duration(now - at)


def until(at: datetime, now: datetime) -> str:
    return f"in {duration(at - now)}"


def duration(period: timedelta) -> str:
    """In the largest unit of which there are at least two, for example `3 h`."""
    seconds = max(0, int(period.total_seconds()))
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
