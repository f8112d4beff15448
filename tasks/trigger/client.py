"""Trigger.dev's management API over HTTP: what is sent, what may come back, and what that means.

Knows neither Django nor our models. Facts are from recordings of the real server (tests/recordings).

The header `x-trigger-api-version` is not sent: without it, the status names are those of the published contract.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol
from urllib.parse import quote, urlencode

import requests
import urllib3

from tasks.trigger import errors
from tasks.trigger.responses import (
    allowance_of,
    as_run,
    as_run_page,
    as_schedule,
    as_schedule_page,
    is_id,
    read_answer,
    read_body,
)
from tasks.trigger.transport import BoundedAdapter, bounded_by
from tasks.trigger.types import Allowance, Run, RunPage, Schedule, SchedulePage

CONNECT_TIMEOUT = 1.0
READ_TIMEOUT = 2.5
TRIES = 2
PAUSE_BETWEEN_TRIES = 0.1
CONNECTIONS = 64
# Without a period the list ends seven days ago, and a monthly task would have no runs.
RUNS_PERIOD = "3650d"
SCHEDULES_PER_PAGE = 100
# With more broken schedules than this, Trigger.dev is failing as a whole.
MAX_UNREADABLE = 10
# Kinds of questions: Trigger.dev can answer one kind and fail at another (recorded: *_DOWN).
Route = Literal["runs", "run", "schedules", "trigger"]
ROUTES: Mapping[str, Route] = {
    "/api/v1/runs": "runs",
    "/api/v3/runs": "run",
    "/api/v1/schedules": "schedules",
    "/api/v1/tasks": "trigger",
}
# What is asked to learn whether Trigger.dev answers again: like what is asked else, and of nothing that there is. There
# is no such question of the kind that starts runs.
PROBES: Mapping[Route, str] = {
    "run": "/api/v3/runs/run_probe",
    "schedules": "/api/v1/schedules/probe",
    "runs": "/api/v1/runs?"
    + urlencode({"filter[tag]": "account:probe", "filter[createdAt][period]": RUNS_PERIOD, "page[size]": "1"}),
}


ReadPage = Callable[[Callable[[float], SchedulePage]], SchedulePage]


class Gate(Protocol):
    """Every call passes it: it may raise NotSent instead, and sees how the call ends."""

    def __call__(self, route: Route, *, patience: float) -> AbstractContextManager[object]:
        """`patience`: how many seconds the call has."""


def no_gate(route: Route, *, patience: float) -> AbstractContextManager[object]:
    return nullcontext()


class TriggerClient:
    """One pool of connections; may be used by many threads at once.

    Every call takes a `deadline` in seconds of `time.monotonic()` and raises a `TriggerError`.
    """

    def __init__(self, base_url: str, secret_key: str, gate: Gate = no_gate) -> None:
        self._gate = gate
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
        if not isinstance(body, dict) or not is_id(body.get("id")):
            raise errors.BrokenAnswer("a started run without id")
        return str(body["id"])

    def list_schedules(self, *, page: int, per_page: int = SCHEDULES_PER_PAGE, deadline: float) -> SchedulePage:
        """At most 100 a page, newest first. An empty list may only mean that nothing is deployed at the moment."""
        query = {"page": str(page), "perPage": str(per_page)}
        return as_schedule_page(self._get("/api/v1/schedules", query, deadline=deadline))

    def iter_schedule_pages(self, read: ReadPage) -> Iterator[SchedulePage]:
        """Every page of the list of schedules. `read` makes each call, so the caller decides pace and deadline.

        A schedule that Trigger.dev itself cannot show breaks every page that it is on (recorded: sched_list__POISONED).
        Such a page is read again in smaller pages, down to single schedules; those that stay broken are counted in
        `unreadable`. Raises the TriggerError when there are more than MAX_UNREADABLE. Schedules that are created or
        deleted meanwhile shift the pages: one may be missing.
        """
        position, count, unreadable = 0, 1, 0
        while position < count:
            for page in self._split_pages(position, SCHEDULES_PER_PAGE, read):
                if isinstance(page, errors.TriggerError):
                    unreadable += 1
                    if unreadable > MAX_UNREADABLE:
                        raise page
                    yield SchedulePage([], count, unreadable=1)
                    continue
                # Nothing follows an empty page, whatever the count says.
                count = page.count if page.schedules or unreadable else position
                yield page
            position += SCHEDULES_PER_PAGE

    def _split_pages(
        self, position: int, size: int, read: ReadPage
    ) -> Iterator[SchedulePage | errors.Failed | errors.BrokenAnswer]:
        """The `size` schedules from `position` on: one page, or ten smaller ones where it is broken."""
        try:
            page = position // size + 1
            yield read(lambda deadline: self.list_schedules(page=page, per_page=size, deadline=deadline))
        except (errors.Failed, errors.BrokenAnswer) as error:
            if size == 1:
                yield error
                return
            for start in range(position, position + size, size // 10):
                yield from self._split_pages(start, size // 10, read)

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

    def probe(self, route: Route, *, deadline: float) -> None:
        """One call that changes nothing, to see whether that kind is answered at all; for those in PROBES."""
        try:
            self._exchange(self._prepared("GET", PROBES[route]), deadline=deadline)
        except (errors.NotFound, errors.Refused):
            return

    def _write(self, method: str, path: str, body: Any, *, deadline: float) -> Any:
        """Sent once: a write that got no answer may still take effect, and is for the caller to look at again."""
        return self._exchange(self._prepared(method, path, json=body), deadline=deadline)

    def _get(self, path: str, query: Mapping[str, str], *, deadline: float) -> Any:
        return self._try_again("GET", path, deadline=deadline, params=query)

    def _try_again(self, method: str, path: str, *, deadline: float, **content: Any) -> Any:
        """Only what may be sent twice comes here: reads, and what carries an idempotency key."""
        prepared = self._prepared(method, path, **content)
        failure: errors.TriggerError | None = None
        for left in reversed(range(TRIES)):
            try:
                return self._exchange(prepared, deadline=deadline)
            except (errors.NotReached, errors.Failed) as error:
                if not left or time.monotonic() + PAUSE_BETWEEN_TRIES >= deadline:
                    raise
                failure = error
                time.sleep(PAUSE_BETWEEN_TRIES)
            except errors.NotSent:
                # That the first try was sent must not be forgotten: it may have taken effect.
                if failure is not None:
                    raise failure from None
                raise
        raise AssertionError("unreachable")

    def _prepared(self, method: str, path: str, *, params: Mapping[str, str] | None = None, json: Any = None) -> Any:
        """A copy of one request that was prepared once: preparing each takes longer than sending it."""
        prepared = self._template.copy()
        prepared.method, prepared.url = method, self._base_url + path + (f"?{urlencode(params)}" if params else "")
        if json is not None:
            prepared.prepare_body(None, None, json=json)
        return prepared

    def _exchange(self, prepared: requests.PreparedRequest, *, deadline: float) -> Any:
        left = deadline - time.monotonic()
        if left <= 0:
            raise errors.TimedOut(f"{prepared.path_url} was not sent, the request's time was up")
        route = route_of(str(prepared.url).removeprefix(self._base_url))
        with self._gate(route, patience=min(READ_TIMEOUT, left)):
            return read_answer(*self._send(prepared, deadline=deadline))

    def _send(self, prepared: requests.PreparedRequest, *, deadline: float) -> tuple[requests.Response, bytes]:
        """The response and its whole body.

        Sent by the adapter itself: a session would follow redirects, or at least read them, and take proxies from the
        environment.
        """
        left = max(0.001, deadline - time.monotonic())
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


def schedule_path(name: str) -> str:
    return f"/api/v1/schedules/{quote(name, safe='')}"


def route_of(path: str) -> Route:
    return next(route for prefix, route in ROUTES.items() if path.startswith(prefix))
