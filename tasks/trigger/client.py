"""Trigger.dev's management API over HTTP: what is sent, what may come back, and what that means.

Knows neither Django nor our models. Facts are from recordings of the real server (tests/recordings).

The header `x-trigger-api-version` is not sent: without it, the status names are those of the published contract.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote, urlencode

import requests
import urllib3

from tasks.trigger import errors
from tasks.trigger.transport import BoundedAdapter, bounded_by
from tasks.trigger.types import Allowance, Run, RunPage, Schedule, SchedulePage

CONNECT_TIMEOUT = 1.0
READ_TIMEOUT = 2.5
TRIES = 2
PAUSE_BETWEEN_TRIES = 0.1
CONNECTIONS = 64
LONGEST_ANSWER = 32 * 1024 * 1024
# Python's own encoder gives up at about twice as many.
DEEPEST_ANSWER = 400
DEFAULT_RETRY_AFTER = 10.0
# Without a period the list ends seven days ago, and a monthly task would have no runs.
RUNS_PERIOD = "3650d"
SCHEDULES_PER_PAGE = 100
RUN_KEYS = ("id", "status", "taskIdentifier", "createdAt", "updatedAt")


class TriggerClient:
    """One pool of connections; may be used by many threads at once.

    Every call takes a `deadline` in seconds of `time.monotonic()` and raises a `TriggerError`.
    """

    def __init__(self, base_url: str, secret_key: str) -> None:
        self._base_url = base_url.rstrip("/")
        self._adapter = BoundedAdapter(pool_connections=1, pool_maxsize=CONNECTIONS)
        self.allowance: Allowance | None = None
        headers = {"Authorization": f"Bearer {secret_key}", "Accept": "application/json"}
        self._template = requests.Request("GET", self._base_url, headers=headers).prepare()

    def close(self) -> None:
        self._adapter.close()

    def list_runs(
        self, *, schedule_id: str | None = None, tag: str | None = None, limit: int, deadline: float
    ) -> RunPage:
        """The newest runs of one schedule, or of one tag, without their payload and output.

        Exactly one of the two: Trigger.dev takes an empty filter for none, and a comma for an OR.
        """
        filters = {"filter[schedule]": schedule_id, "filter[tag]": tag}
        given = {name: value for name, value in filters.items() if value is not None}
        if len(given) != 1 or any(not value.strip() or "," in value for value in given.values()):
            raise ValueError(f"One schedule or one tag is needed to list runs, not {given}")
        query = {**given, "filter[createdAt][period]": RUNS_PERIOD, "page[size]": str(limit)}
        body = self._get("/api/v1/runs", query, deadline=deadline)
        return as_run_page(body)

    def retrieve_run(self, run_id: str, *, deadline: float) -> Run:
        """One run with its payload and output; NotFound also for one of another environment."""
        return as_run(self._get(f"/api/v3/runs/{quote(run_id, safe='')}", {}, deadline=deadline))

    def trigger_run(
        self, task: str, *, payload: Mapping[str, Any], tags: Sequence[str], idempotency_key: str, deadline: float
    ) -> str:
        """Starts a run and gives its id; the same key gives the same run, so that trying again is harmless."""
        options = {"tags": list(tags), "idempotencyKey": idempotency_key, "payloadType": "application/json"}
        path = f"/api/v1/tasks/{quote(task, safe='')}/trigger"
        body = self._try_again("POST", path, deadline=deadline, json={"payload": payload, "options": options})
        if not isinstance(body, dict) or not isinstance(body.get("id"), str) or not 0 < len(body["id"]) <= 100:
            raise errors.BrokenAnswer("a started run without id")
        return str(body["id"])

    def list_schedules(self, *, page: int, per_page: int = SCHEDULES_PER_PAGE, deadline: float) -> SchedulePage:
        """At most 100 a page, newest first. An empty list may only mean that nothing is deployed at the moment."""
        query = {"page": str(page), "perPage": str(per_page)}
        return as_schedule_page(self._get("/api/v1/schedules", query, deadline=deadline))

    def retrieve_schedule(self, name: str, *, deadline: float) -> Schedule:
        """By id or by key; NotFound also for a deleted one."""
        return as_schedule(self._get(schedule_path(name), {}, deadline=deadline))

    def put_schedule(
        self, *, key: str, task: str, cron: str, timezone: str, external_id: str, deadline: float
    ) -> Schedule:
        """Makes the schedule with this key, or replaces it; whether it is active stays as it was, and new ones are."""
        body = {"task": task, "cron": cron, "deduplicationKey": key, "timezone": timezone, "externalId": external_id}
        return as_schedule(self._write("POST", "/api/v1/schedules", body, deadline=deadline))

    def replace_schedule(
        self, schedule_id: str, *, task: str, cron: str, timezone: str, external_id: str, deadline: float
    ) -> Schedule:
        """For one that has no key. On an unknown id Trigger.dev makes another schedule: look first."""
        body = {"task": task, "cron": cron, "timezone": timezone, "externalId": external_id}
        return as_schedule(self._write("PUT", schedule_path(schedule_id), body, deadline=deadline))

    def activate_schedule(self, name: str, *, deadline: float) -> Schedule:
        return as_schedule(self._write("POST", f"{schedule_path(name)}/activate", None, deadline=deadline))

    def deactivate_schedule(self, name: str, *, deadline: float) -> Schedule:
        return as_schedule(self._write("POST", f"{schedule_path(name)}/deactivate", None, deadline=deadline))

    def delete_schedule(self, name: str, *, deadline: float) -> None:
        """By id or by key; NotFound when it is gone already."""
        self._write("DELETE", schedule_path(name), None, deadline=deadline)

    def _write(self, method: str, path: str, body: Any, *, deadline: float) -> Any:
        """Sent once: a write that got no answer may still take effect, and is for the caller to look at again."""
        return read_answer(*self._send(self._prepared(method, path, json=body), deadline=deadline))

    def _get(self, path: str, query: Mapping[str, str], *, deadline: float) -> Any:
        return self._try_again("GET", path, deadline=deadline, params=query)

    def _try_again(self, method: str, path: str, *, deadline: float, **content: Any) -> Any:
        """Only what may be sent twice comes here: reads, and what carries an idempotency key."""
        prepared = self._prepared(method, path, **content)
        for left in reversed(range(TRIES)):
            try:
                return read_answer(*self._send(prepared, deadline=deadline))
            except (errors.NotReached, errors.Failed):
                if not left or time.monotonic() + PAUSE_BETWEEN_TRIES >= deadline:
                    raise
                time.sleep(PAUSE_BETWEEN_TRIES)
        raise AssertionError("unreachable")

    def _prepared(self, method: str, path: str, *, params: Mapping[str, str] | None = None, json: Any = None) -> Any:
        """A copy of one request that was prepared once: preparing each takes longer than sending it."""
        prepared = self._template.copy()
        prepared.method, prepared.url = method, self._base_url + path + (f"?{urlencode(params)}" if params else "")
        if json is not None:
            prepared.prepare_body(None, None, json=json)
        return prepared

    def _send(self, prepared: requests.PreparedRequest, *, deadline: float) -> tuple[requests.Response, bytes]:
        """The response and its whole body.

        Sent by the adapter itself: a session would follow redirects, or at least read them, and take proxies from the
        environment.
        """
        left = deadline - time.monotonic()
        if left <= 0:
            raise errors.TimedOut(f"{prepared.path_url} was not sent, the request's time was up")
        timeout = (min(CONNECT_TIMEOUT, left), min(READ_TIMEOUT, left))
        try:
            with bounded_by(deadline), self._adapter.send(prepared, timeout=timeout, stream=True) as response:
                self.allowance = allowance_of(response) or self.allowance
                return response, read_body(response)
        except (requests.Timeout, urllib3.exceptions.ReadTimeoutError) as error:
            raise errors.TimedOut(str(prepared.path_url)) from error
        except (requests.ConnectionError, urllib3.exceptions.ProtocolError) as error:
            raise errors.NotReached(type(error).__name__) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise errors.BrokenAnswer(type(error).__name__) from error


def read_body(response: requests.Response) -> bytes:
    body = bytearray()
    while chunk := response.raw.read1(64 * 1024, decode_content=True):
        body += chunk
        if len(body) > LONGEST_ANSWER:
            raise errors.BrokenAnswer(f"the answer is longer than {LONGEST_ANSWER} bytes")
    return bytes(body)


def read_answer(response: requests.Response, body: bytes) -> Any:
    """The JSON of a success; else the error that the status, and only then the body, tells."""
    status, answer = response.status_code, parsed(body)
    if status == 200:
        if answer is None:
            raise errors.BrokenAnswer(f"200 without JSON, {content_type(response)}")
        return answer
    reason = answer.get("error") if isinstance(answer, dict) else None
    if status == 429:
        raise errors.TooManyRequests(str(reason or ""), retry_after=seconds_until_reset(response))
    # A JSON 404 speaks of the thing asked for; an HTML 404 of a route that is not there, so of a wrong URL.
    if status == 404 and reason:
        raise errors.NotFound(str(reason))
    if status in (400, 401, 403, 405, 422) and reason:
        raise errors.Refused(f"{status}, {reason}", reason=str(reason))
    if status >= 500:
        raise errors.Failed(f"{status}, {reason or content_type(response)}")
    raise errors.BrokenAnswer(f"{status}, {content_type(response)}")


def seconds_until_reset(response: requests.Response) -> float:
    """From `x-ratelimit-reset`, epoch milliseconds (recorded: ratelimit_default_429); there is never a Retry-After."""
    try:
        left = float(response.headers["x-ratelimit-reset"]) / 1000 - time.time()
    except (KeyError, ValueError):
        return DEFAULT_RETRY_AFTER
    return min(max(left, 0.0), 60.0) if math.isfinite(left) else DEFAULT_RETRY_AFTER


def allowance_of(response: requests.Response) -> Allowance | None:
    """From the three x-ratelimit headers, which every authenticated answer has (recorded: ratelimit_*)."""
    try:
        limit, remaining = (int(response.headers[f"x-ratelimit-{name}"]) for name in ("limit", "remaining"))
    except (KeyError, ValueError):
        return None
    return Allowance(limit, remaining, seconds_until_reset(response))


def parsed(body: bytes) -> Any:
    """The JSON of a body in which every number is one; None for what is no JSON, or deeper than anyone can send on."""
    try:
        found = json.loads(body, parse_constant=lambda _: None, parse_float=finite)
    except (ValueError, RecursionError):
        return None
    may_be_deep = body.count(b"[") + body.count(b"{") > DEEPEST_ANSWER
    return None if may_be_deep and is_too_deep(found) else found


def finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST_ANSWER):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


def content_type(response: requests.Response) -> str:
    return response.headers.get("content-type", "no content type")


def as_run_page(body: Any) -> RunPage:
    if not isinstance(body, dict) or not isinstance(body.get("data"), list):
        raise errors.BrokenAnswer("a list of runs without data")
    pagination = body.get("pagination")
    following = pagination.get("next") if isinstance(pagination, dict) else None
    return RunPage(runs=[as_run(item) for item in body["data"]], next=following)


def as_run(body: Any) -> Run:
    """The run as it came, once it has what the contract and the access check need."""
    if not isinstance(body, dict) or not all(isinstance(body.get(key), str) for key in RUN_KEYS):
        raise errors.BrokenAnswer("a run without id, status, taskIdentifier or dates")
    tags = body.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise errors.BrokenAnswer("a run whose tags are not a list of strings")
    if not isinstance(body.get("relatedRuns") or {}, dict):
        raise errors.BrokenAnswer("a run whose relatedRuns are not an object")
    for related in (body.get("relatedRuns") or {}).values():
        for item in related if isinstance(related, list) else [related] if related is not None else []:
            as_run(item)
    return cast(Run, body)


def schedule_path(name: str) -> str:
    return f"/api/v1/schedules/{quote(name, safe='')}"


def as_schedule_page(body: Any) -> SchedulePage:
    try:
        return SchedulePage([as_schedule(item) for item in body["data"]], int(body["pagination"]["count"]))
    except (TypeError, KeyError, ValueError) as error:
        raise errors.BrokenAnswer("a list of schedules without data or pagination") from error


def as_schedule(body: Any) -> Schedule:
    try:
        schedule = Schedule(
            id=body["id"],
            task=body["task"],
            active=body["active"],
            cron=body["generator"]["expression"],
            timezone=body["timezone"],
            external_id=body.get("externalId"),
            key=body.get("deduplicationKey"),
            is_declarative=body["type"] == "DECLARATIVE",
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise errors.BrokenAnswer("a schedule without id, task, cron or time zone") from error
    texts = (schedule.id, schedule.task, schedule.cron, schedule.timezone)
    names = (schedule.external_id, schedule.key)
    is_whole = all(isinstance(text, str) for text in texts) and isinstance(schedule.active, bool)
    if not is_whole or not all(isinstance(name, str | None) for name in names) or not 0 < len(schedule.id) <= 100:
        raise errors.BrokenAnswer("a schedule of which a part is not what it should be")
    return schedule
