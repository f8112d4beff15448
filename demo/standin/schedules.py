"""Schedules: an upsert by key that replaces all but the task and `active`, three shapes of answer, and firing."""

import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from demo.standin import cron
from demo.standin.messages import Reply, Request, encoded, error, ok
from demo.standin.run_json import moment
from demo.standin.state import StandinRun, StandinSchedule, State
from demo.standin.zone_names import ZONE_NAMES

ORIGIN = "http://trigger.example"
WRONG = "Something went wrong, please try again."
PER_PAGE, MOST_PER_PAGE = 20, 100
SCHEDULED_TASKS = frozenset(["customer-prompt-task"])
OTHER_TASKS = frozenset(["create-content", "setup-sandbox"])


def list_schedules(state: State, request: Request, environment: Mapping[str, str]) -> Reply:
    """Newest first. Empty without a current deployment, whatever there is; a poisoned schedule spoils its page."""
    try:
        page, per_page = int(request.query.get("page", "1")), int(request.query.get("perPage", str(PER_PAGE)))
    except ValueError:
        page, per_page = 0, 0
    if page < 1 or per_page < 1:
        return Reply(400, encoded({"error": "Invalid request parameters", "issues": []}))
    if not state.deployed:
        return ok({"data": [], "pagination": {"currentPage": 1, "totalPages": 1, "count": 0}})
    per_page = min(per_page, MOST_PER_PAGE)
    count = state.count_schedules()
    found = state.schedules(limit=per_page, offset=(page - 1) * per_page)
    if any(schedule.poisoned for schedule in found):
        return broken()
    pagination = {"currentPage": page, "totalPages": -(-count // per_page), "count": count}
    return ok({"data": [item(schedule, environment, now=state.now) for schedule in found], "pagination": pagination})


def put_by_key(state: State, request: Request, environment: Mapping[str, str]) -> Reply:
    body = body_of(request)
    refusal = refused(body, ("task", "cron", "deduplicationKey"))
    if refusal or body is None:
        return refusal or broken()
    key = body["deduplicationKey"] or None
    return put(state, body, state.schedule(key) if key else None, environment, key=key)


def put_by_id(state: State, request: Request, environment: Mapping[str, str], schedule_id: str) -> Reply:
    """An unknown id is no error: a schedule without a key is made."""
    body = body_of(request)
    refusal = refused(body, ("task", "cron"))
    if refusal or body is None:
        return refusal or broken()
    former = state.schedule(schedule_id)
    return put(state, body, former, environment, key=former.key if former else None)


def put(
    state: State,
    body: dict[str, Any],
    former: StandinSchedule | None,
    environment: Mapping[str, str],
    *,
    key: str | None,
) -> Reply:
    """What the body leaves out is reset. The task of a schedule, and whether it is active, stay as they were."""
    expression, zone = body["cron"], body.get("timezone", "UTC")
    refusal = refused_cron(expression, now=state.now) or refused_zone(zone) or refused_task(body["task"])
    if refusal:
        return refusal
    if former and former.kind == "DECLARATIVE":
        return error(422, "Cannot update a declarative schedule")
    poisoned = zone == "" or cron.leaves_broken_schedule(expression)
    schedule = StandinSchedule(
        task=former.task if former else body["task"],
        cron=expression,
        created=former.created if former else state.now,
        id=former.id if former else "",
        key=key,
        external_id=body.get("externalId") or None,
        timezone=zone,
        window=body.get("window"),
        active=former.active if former else True,
        poisoned=poisoned,
        last_fire=former.last_fire if former else None,
    )
    schedule.next_fire = None if poisoned else next_fire(schedule, now=state.now)
    try:
        state.put_schedule(schedule)
    except sqlite3.IntegrityError:
        return error(500, WRONG)
    if poisoned:
        return error(500, WRONG)
    return ok(written(schedule, environment, now=state.now))


def retrieve(state: State, request: Request, environment: Mapping[str, str], name: str) -> Reply:
    schedule = state.schedule(name)
    if schedule is None:
        return error(404, "Schedule not found")
    return broken() if schedule.poisoned else ok(single(schedule, environment))


def delete(state: State, request: Request, environment: Mapping[str, str], name: str) -> Reply:
    schedule = state.schedule(name)
    if schedule is None:
        return error(404, "Schedule not found")
    state.remove_schedule(schedule.id)
    return ok({"id": schedule.id})


def activate(state: State, request: Request, environment: Mapping[str, str], name: str) -> Reply:
    return set_active(state, environment, name, active=True)


def deactivate(state: State, request: Request, environment: Mapping[str, str], name: str) -> Reply:
    return set_active(state, environment, name, active=False)


def set_active(state: State, environment: Mapping[str, str], name: str, *, active: bool) -> Reply:
    schedule = state.schedule(name)
    if schedule is None:
        return error(404, "Schedule not found")
    if schedule.poisoned:
        return broken()
    schedule.active = active
    schedule.next_fire = next_fire(schedule, now=state.now)
    return ok(single(state.put_schedule(schedule), environment))


def list_timezones(request: Request) -> Reply:
    without_utc = request.query.get("excludeUtc") == "true"
    return ok({"timezones": [name for name in ZONE_NAMES if not (without_utc and name == "UTC")]})


# --- Refusals, in the order of the real server ------------------------------------------------------------------------


def body_of(request: Request) -> dict[str, Any] | None:
    try:
        body = json.loads(request.body)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def refused(body: dict[str, Any] | None, needed: tuple[str, ...]) -> Reply | None:
    if body is None:
        return broken()
    optional = tuple(name for name in ("externalId", "timezone") if name in body)
    for name in (*needed, *optional):
        if not isinstance(body.get(name), str):
            received = "undefined" if name not in body else "null" if body[name] is None else type(body[name]).__name__
            issue = {"code": "invalid_type", "expected": "string", "received": received, "path": [name]}
            message = "Required" if name not in body else f"Expected string, received {received}"
            return Reply(400, encoded({"error": "Invalid request body", "issues": [{**issue, "message": message}]}))
    return None


def refused_cron(expression: str, *, now: float) -> Reply | None:
    try:
        cron.check(expression, at=datetime.fromtimestamp(now, UTC))
    except cron.InvalidCronError as reason:
        return error(422, f"Invalid cron expression: {reason}")
    except cron.BrokenCronError:
        return error(500, WRONG)
    return None


def refused_zone(zone: str) -> Reply | None:
    if zone == "" or zone in ZONE_NAMES:
        return None
    return error(422, f"Invalid IANA timezone: '{zone}'. View the list of valid timezones at {ORIGIN}/timezones")


def refused_task(task: str) -> Reply | None:
    if task in SCHEDULED_TASKS:
        return None
    if task in OTHER_TASKS:
        return error(422, f"Task with identifier {task} is not a scheduled task.")
    return error(422, f"Task with identifier {task} not found in project.")


def broken() -> Reply:
    return Reply(500, b"Unexpected Server Error", "text/plain; charset=utf-8")


# --- Three shapes of one schedule ------------------------------------------------------------------------------------


def written(schedule: StandinSchedule, environment: Mapping[str, str], *, now: float) -> dict[str, Any]:
    return {
        **head(schedule),
        "active": schedule.active,
        **body(schedule),
        **names(schedule),
        "environments": [{"id": environment["id"], "shortcode": "short-prod", "type": "PRODUCTION"}],
        **next_run(planned(schedule, now=now)),
    }


def single(schedule: StandinSchedule, environment: Mapping[str, str]) -> dict[str, Any]:
    return {
        **head(schedule),
        "active": schedule.active,
        **next_run(schedule.next_fire),
        **body(schedule),
        **names(schedule),
        "environments": [{"id": environment["id"], "type": "PRODUCTION"}],
    }


def item(schedule: StandinSchedule, environment: Mapping[str, str], *, now: float) -> dict[str, Any]:
    """In a list an unset externalId is null, and an inactive schedule too has a next run."""
    key = {"deduplicationKey": schedule.key} if schedule.key else {}
    return {
        **head(schedule),
        **body(schedule),
        **key,
        "externalId": schedule.external_id,
        "active": schedule.active,
        **next_run(planned(schedule, now=now)),
        "environments": [{"id": environment["id"], "type": "PRODUCTION", "slug": environment["name"]}],
    }


def head(schedule: StandinSchedule) -> dict[str, Any]:
    return {"id": schedule.id, "type": schedule.kind, "task": schedule.task}


def body(schedule: StandinSchedule) -> dict[str, Any]:
    generator = {"type": "CRON", "expression": schedule.cron, "description": cron.describe(schedule.cron)}
    window = {"window": schedule.window} if schedule.window else {}
    return {"generator": generator, "timezone": schedule.timezone, **window}


def names(schedule: StandinSchedule) -> dict[str, Any]:
    named = {"externalId": schedule.external_id, "deduplicationKey": schedule.key}
    return {name: value for name, value in named.items() if value is not None}


def next_run(at: float | None) -> dict[str, Any]:
    text = moment(at) if at is not None else None
    return {"nextRun": text, "nextRunEffectiveAt": text}


# --- Firing ----------------------------------------------------------------------------------------------------------


def planned(schedule: StandinSchedule, *, now: float) -> float:
    """Also of an inactive schedule; an active one knows it, until it has fired."""
    if schedule.next_fire is not None and schedule.next_fire > now:
        return schedule.next_fire
    after = datetime.fromtimestamp(now, UTC)
    return cron.next_times(schedule.cron, schedule.timezone, after=after, count=1)[0].timestamp()


def next_fire(schedule: StandinSchedule, *, now: float) -> float | None:
    return planned(schedule, now=now) if schedule.active else None


def fire_due(state: State) -> int:
    """Makes the runs of the schedules that are due, with the payload of the real engine; returns how many."""
    due = state.due_schedules(now=state.now)
    for schedule in due:
        state.add_run(fired(schedule, schedule.next_fire or state.now))
        schedule.last_fire, schedule.next_fire = schedule.next_fire, next_fire(schedule, now=state.now)
        state.put_schedule(schedule)
    return len(due)


def fired(schedule: StandinSchedule, at: float) -> StandinRun:
    upcoming = cron.next_times(schedule.cron, schedule.timezone, after=datetime.fromtimestamp(at, UTC))
    return StandinRun(
        task=schedule.task,
        created=at,
        kind="SCHEDULED",
        has_output=True,
        output="done",
        schedule={"id": schedule.id, **names(schedule), "generator": body(schedule)["generator"]},
        payload={
            "scheduleId": schedule.id,
            "type": schedule.kind,
            "timestamp": moment(at),
            "lastTimestamp": moment(schedule.last_fire) if schedule.last_fire else None,
            "externalId": schedule.external_id,
            "timezone": schedule.timezone,
            "upcoming": [moment(time.timestamp()) for time in upcoming],
        },
    )
