"""Schedules: create, update, list and delete as Trigger.dev does, three JSON shapes, and firing.

A write is an upsert by deduplication key or id. It replaces everything except the task and `active`.
"""

import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from demo.standin import cron
from demo.standin.messages import Reply, Request, error, ok, to_json
from demo.standin.run_json import iso_timestamp
from demo.standin.state import StandinRun, StandinSchedule, State
from demo.standin.zone_names import ZONE_NAMES

ORIGIN = "http://trigger.example"
GENERIC_ERROR = "Something went wrong, please try again."
PER_PAGE, MAX_PER_PAGE = 20, 100
SCHEDULED_TASKS = frozenset(["customer-prompt-task"])
OTHER_TASKS = frozenset(["create-content", "setup-sandbox"])


def list_schedules(state: State, request: Request, environment: Mapping[str, str]) -> Reply:
    """Newest first. Always empty without a deployment. A poisoned schedule breaks its page."""
    try:
        page, per_page = int(request.query.get("page", "1")), int(request.query.get("perPage", str(PER_PAGE)))
    except ValueError:
        page, per_page = 0, 0
    if page < 1 or per_page < 1:
        return Reply(400, to_json({"error": "Invalid request parameters", "issues": []}))
    if not state.deployed:
        return ok({"data": [], "pagination": {"currentPage": 1, "totalPages": 1, "count": 0}})
    per_page = min(per_page, MAX_PER_PAGE)
    count = state.count_schedules()
    found = state.schedules(limit=per_page, offset=(page - 1) * per_page)
    if any(schedule.poisoned for schedule in found):
        return unexpected_server_error()
    pagination = {"currentPage": page, "totalPages": -(-count // per_page), "count": count}
    return ok(
        {"data": [list_item(schedule, environment, now=state.now) for schedule in found], "pagination": pagination}
    )


def put_by_key(state: State, request: Request, environment: Mapping[str, str]) -> Reply:
    body = body_of(request)
    refusal = body_error(body, ("task", "cron", "deduplicationKey"))
    if refusal or body is None:
        return refusal or unexpected_server_error()
    key = body["deduplicationKey"] or None
    return upsert(state, body, state.schedule(key) if key else None, environment, key=key)


def put_by_id(state: State, request: Request, environment: Mapping[str, str], schedule_id: str) -> Reply:
    """An unknown id is not an error: it creates a schedule without a deduplication key."""
    body = body_of(request)
    refusal = body_error(body, ("task", "cron"))
    if refusal or body is None:
        return refusal or unexpected_server_error()
    existing = state.schedule(schedule_id)
    return upsert(state, body, existing, environment, key=existing.key if existing else None)


def upsert(
    state: State,
    body: dict[str, Any],
    existing: StandinSchedule | None,
    environment: Mapping[str, str],
    *,
    key: str | None,
) -> Reply:
    """Fields that the body omits are reset. An existing schedule keeps its task and its `active`."""
    expression, zone = body["cron"], body.get("timezone", "UTC")
    refusal = cron_error(expression, now=state.now) or timezone_error(zone) or task_error(body["task"])
    if refusal:
        return refusal
    if existing and existing.kind == "DECLARATIVE":
        return error(422, "Cannot update a declarative schedule")
    poisoned = zone == "" or cron.leaves_broken_schedule(expression)
    schedule = StandinSchedule(
        task=existing.task if existing else body["task"],
        cron=expression,
        created=existing.created if existing else state.now,
        id=existing.id if existing else "",
        key=key,
        external_id=body.get("externalId") or None,
        timezone=zone,
        window=body.get("window"),
        active=existing.active if existing else True,
        poisoned=poisoned,
        last_fire=existing.last_fire if existing else None,
    )
    schedule.next_fire = None if poisoned else next_fire(schedule, now=state.now)
    try:
        state.put_schedule(schedule)
    except sqlite3.IntegrityError:
        return error(500, GENERIC_ERROR)
    if poisoned:
        return error(500, GENERIC_ERROR)
    return ok(write_reply(schedule, environment, now=state.now))


def retrieve(state: State, request: Request, environment: Mapping[str, str], name: str) -> Reply:
    schedule = state.schedule(name)
    if schedule is None:
        return error(404, "Schedule not found")
    return unexpected_server_error() if schedule.poisoned else ok(schedule_detail(schedule, environment))


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
        return unexpected_server_error()
    schedule.active = active
    schedule.next_fire = next_fire(schedule, now=state.now)
    return ok(schedule_detail(state.put_schedule(schedule), environment))


def list_timezones(request: Request) -> Reply:
    without_utc = request.query.get("excludeUtc") == "true"
    return ok({"timezones": [name for name in ZONE_NAMES if not (without_utc and name == "UTC")]})


# --- Validation, in the order of the real server ----------------------------------------------------------------------


def body_of(request: Request) -> dict[str, Any] | None:
    try:
        body = json.loads(request.body)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def body_error(body: dict[str, Any] | None, needed: tuple[str, ...]) -> Reply | None:
    if body is None:
        return unexpected_server_error()
    optional = tuple(name for name in ("externalId", "timezone") if name in body)
    for name in (*needed, *optional):
        if not isinstance(body.get(name), str):
            received = "undefined" if name not in body else "null" if body[name] is None else type(body[name]).__name__
            issue = {"code": "invalid_type", "expected": "string", "received": received, "path": [name]}
            message = "Required" if name not in body else f"Expected string, received {received}"
            return Reply(400, to_json({"error": "Invalid request body", "issues": [{**issue, "message": message}]}))
    return None


def cron_error(expression: str, *, now: float) -> Reply | None:
    try:
        cron.check(expression, at=datetime.fromtimestamp(now, UTC))
    except cron.InvalidCronError as reason:
        return error(422, f"Invalid cron expression: {reason}")
    except cron.BrokenCronError:
        return error(500, GENERIC_ERROR)
    return None


def timezone_error(zone: str) -> Reply | None:
    if zone == "" or zone in ZONE_NAMES:
        return None
    return error(422, f"Invalid IANA timezone: '{zone}'. View the list of valid timezones at {ORIGIN}/timezones")


def task_error(task: str) -> Reply | None:
    if task in SCHEDULED_TASKS:
        return None
    if task in OTHER_TASKS:
        return error(422, f"Task with identifier {task} is not a scheduled task.")
    return error(422, f"Task with identifier {task} not found in project.")


def unexpected_server_error() -> Reply:
    return Reply(500, b"Unexpected Server Error", "text/plain; charset=utf-8")


# --- The three JSON shapes of a schedule -----------------------------------------------------------------------------


def write_reply(schedule: StandinSchedule, environment: Mapping[str, str], *, now: float) -> dict[str, Any]:
    return {
        **identity_fields(schedule),
        "active": schedule.active,
        **timing_fields(schedule),
        **optional_ids(schedule),
        "environments": [{"id": environment["id"], "shortcode": "short-prod", "type": "PRODUCTION"}],
        **next_run_fields(next_time(schedule, now=now)),
    }


def schedule_detail(schedule: StandinSchedule, environment: Mapping[str, str]) -> dict[str, Any]:
    return {
        **identity_fields(schedule),
        "active": schedule.active,
        **next_run_fields(schedule.next_fire),
        **timing_fields(schedule),
        **optional_ids(schedule),
        "environments": [{"id": environment["id"], "type": "PRODUCTION"}],
    }


def list_item(schedule: StandinSchedule, environment: Mapping[str, str], *, now: float) -> dict[str, Any]:
    """In a list, a missing externalId is null, and an inactive schedule has a next run too."""
    key = {"deduplicationKey": schedule.key} if schedule.key else {}
    return {
        **identity_fields(schedule),
        **timing_fields(schedule),
        **key,
        "externalId": schedule.external_id,
        "active": schedule.active,
        **next_run_fields(next_time(schedule, now=now)),
        "environments": [{"id": environment["id"], "type": "PRODUCTION", "slug": environment["name"]}],
    }


def identity_fields(schedule: StandinSchedule) -> dict[str, Any]:
    return {"id": schedule.id, "type": schedule.kind, "task": schedule.task}


def timing_fields(schedule: StandinSchedule) -> dict[str, Any]:
    generator = {"type": "CRON", "expression": schedule.cron, "description": cron.describe(schedule.cron)}
    window = {"window": schedule.window} if schedule.window else {}
    return {"generator": generator, "timezone": schedule.timezone, **window}


def optional_ids(schedule: StandinSchedule) -> dict[str, Any]:
    named = {"externalId": schedule.external_id, "deduplicationKey": schedule.key}
    return {name: value for name, value in named.items() if value is not None}


def next_run_fields(at: float | None) -> dict[str, Any]:
    text = iso_timestamp(at) if at is not None else None
    return {"nextRun": text, "nextRunEffectiveAt": text}


# --- Firing ----------------------------------------------------------------------------------------------------------


def next_time(schedule: StandinSchedule, *, now: float) -> float:
    """The next time in epoch seconds, also of an inactive schedule. An active schedule stores it until it fires."""
    if schedule.next_fire is not None and schedule.next_fire > now:
        return schedule.next_fire
    after = datetime.fromtimestamp(now, UTC)
    return cron.next_times(schedule.cron, schedule.timezone, after=after, count=1)[0].timestamp()


def next_fire(schedule: StandinSchedule, *, now: float) -> float | None:
    return next_time(schedule, now=now) if schedule.active else None


def fire_due(state: State, *, ahead: float = 0.0) -> int:
    """Creates the runs of all due schedules, with the payload of the real server, and returns their number.

    `ahead`: seconds. The real engine fires up to 30 s before the time. After an outage it fires once, with the time
    that was due first, and skips the others.
    """
    now = state.now + ahead
    due = state.due_schedules(now=now)
    for schedule in due:
        state.add_run(fired(schedule, schedule.next_fire or now))
        schedule.last_fire, schedule.next_fire = schedule.next_fire, next_fire(schedule, now=now)
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
        schedule={"id": schedule.id, **optional_ids(schedule), "generator": timing_fields(schedule)["generator"]},
        payload={
            "scheduleId": schedule.id,
            "type": schedule.kind,
            "timestamp": iso_timestamp(at),
            "lastTimestamp": iso_timestamp(schedule.last_fire) if schedule.last_fire else None,
            "externalId": schedule.external_id,
            "timezone": schedule.timezone,
            "upcoming": [iso_timestamp(time.timestamp()) for time in upcoming],
        },
    )
