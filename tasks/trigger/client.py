"""A client of Trigger.dev's management API. It knows neither Django nor our models.

Facts come from recordings of the real server (tests/recordings). The header `x-trigger-api-version` is not sent:
without it, the status names are those of the published contract.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime
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
# Without a period the list covers seven days, and a monthly task would have no runs.
RUNS_PERIOD = "3650d"
# Every unfinished status in one list: one status per list would miss a run that changes (recorded: feed_list_*).
UNFINISHED = "QUEUED,DEQUEUED,EXECUTING,REATTEMPTING,FROZEN,DELAYED,PENDING_VERSION,WAITING_FOR_DEPLOY"
SCHEDULES_PER_PAGE = 100
# With more broken schedules than this, Trigger.dev is failing as a whole.
MAX_UNREADABLE = 10
# Kinds of calls: Trigger.dev can answer one kind and fail at another (recorded: *_DOWN).
Route = Literal["runs", "run", "schedules", "trigger"]
ROUTES: Mapping[str, Route] = {
    "/api/v1/runs": "runs",
    "/api/v3/runs": "run",
    "/api/v1/schedules": "schedules",
    "/api/v1/tasks": "trigger",
}
# Harmless calls that show whether Trigger.dev answers a kind of call again; they name nothing that exists. There is
# none for starting runs.
PROBES: Mapping[Route, str] = {
    "run": "/api/v3/runs/run_probe",
    "schedules": "/api/v1/schedules/probe",
    "runs": "/api/v1/runs?"
    + urlencode({"filter[tag]": "account:probe", "filter[createdAt][period]": RUNS_PERIOD, "page[size]": "1"}),
}


ReadPage = Callable[[Callable[[float], SchedulePage]], SchedulePage]


def has_tag(run: Run, tag: str) -> bool:
    """Listed runs are not checked: their tags may be anything."""
    tags: Any = run.get("tags")
    return isinstance(tags, list) and tag in tags


class Gate(Protocol):
    """Every call passes it. It may raise NotSent, and sees the result of the call."""

    def __call__(self, route: Route, *, patience: float) -> AbstractContextManager[object]:
        """`patience`: the seconds that the call may take."""


def no_gate(route: Route, *, patience: float) -> AbstractContextManager[object]:
    return nullcontext()


class TriggerClient:
    """One pool of connections, for many threads.

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
        self,
        *,
        schedule_id: str | None = None,
        tag: str | None = None,
        limit: int,
        after: str | None = None,
        deadline: float,
    ) -> RunPage:
        """The newest runs of one schedule, or of one tag, without payload and output. `after`: a page's `next`.

        Exactly one of the two: to Trigger.dev an empty filter is no filter, and a comma means OR.
        """
        filters = {"filter[schedule]": schedule_id, "filter[tag]": tag}
        given = {name: value for name, value in filters.items() if value is not None}
        if len(given) != 1 or any(not value.strip() or "," in value for value in given.values()):
            raise ValueError(f"One schedule or one tag is needed to list runs, not {given}")
        page = self._list_runs(given, limit=limit, after=after, deadline=deadline)
        # A list without the filter would be that of all accounts.
        return page if tag is None else replace(page, runs=[run for run in page.runs if has_tag(run, tag)])

    def list_unfinished_runs(self, *, limit: int, after: str | None = None, deadline: float) -> RunPage:
        """The unfinished runs of the environment. A page can be short, or empty, and still have a next one."""
        return self._list_runs({"filter[status]": UNFINISHED}, limit=limit, after=after, deadline=deadline)

    def list_newest_runs(self, *, since: datetime, limit: int, after: str | None = None, deadline: float) -> RunPage:
        """All runs of the environment that were created since then."""
        filters = {"filter[createdAt][from]": str(round(since.timestamp() * 1000))}
        return self._list_runs(filters, limit=limit, after=after, deadline=deadline, period=None)

    def _list_runs(
        self,
        filters: Mapping[str, str],
        *,
        limit: int,
        after: str | None,
        deadline: float,
        period: str | None = RUNS_PERIOD,
    ) -> RunPage:
        """The filters are repeated on every page: a cursor does not carry them.

        A page that is too large is read again in a smaller size: a few huge runs must not hide the others.
        """
        query = {**filters, "page[size]": str(limit)}
        if period is not None:
            query["filter[createdAt][period]"] = period
        if after is not None:
            query["page[after]"] = after
        try:
            return as_run_page(self._get("/api/v1/runs", query, deadline=deadline))
        except errors.TooLarge:
            if limit == 1:
                raise
            smaller = max(1, limit // 10)
            return self._list_runs(filters, limit=smaller, after=after, deadline=deadline, period=period)

    def retrieve_run(self, run_id: str, *, deadline: float) -> Run:
        """One run with its payload and output; NotFound also for one of another environment."""
        return as_run(self._get(f"/api/v3/runs/{quote(run_id, safe='')}", {}, deadline=deadline))

    def trigger_run(
        self, task: str, *, payload: Mapping[str, Any], tags: Sequence[str], idempotency_key: str, deadline: float
    ) -> str:
        """Starts a run and returns its id. The same key returns the same run, so a retry is harmless."""
        options = {"tags": list(tags), "idempotencyKey": idempotency_key, "payloadType": "application/json"}
        path = f"/api/v1/tasks/{quote(task, safe='')}/trigger"
        body = self._send_with_retry("POST", path, deadline=deadline, json={"payload": payload, "options": options})
        if not isinstance(body, dict) or not is_id(body.get("id")):
            raise errors.BrokenAnswer("a started run without id")
        return str(body["id"])

    def list_schedules(self, *, page: int, per_page: int = SCHEDULES_PER_PAGE, deadline: float) -> SchedulePage:
        """At most 100 per page, newest first. The list is also empty while nothing is deployed."""
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
        """Creates the schedule with this key, or replaces it. A new one is active; else `active` stays as it is."""
        body = {"task": task, "cron": cron, "deduplicationKey": key, "timezone": timezone, "externalId": external_id}
        return as_schedule(self._write("POST", "/api/v1/schedules", body, deadline=deadline))

    def replace_schedule(
        self, schedule_id: str, *, task: str, cron: str, timezone: str, external_id: str, deadline: float
    ) -> Schedule:
        """For a schedule without a key. With an unknown id Trigger.dev creates another schedule: retrieve it first."""
        body = {"task": task, "cron": cron, "timezone": timezone, "externalId": external_id}
        return as_schedule(self._write("PUT", schedule_path(schedule_id), body, deadline=deadline))

    def activate_schedule(self, name: str, *, deadline: float) -> Schedule:
        return as_schedule(self._write("POST", f"{schedule_path(name)}/activate", None, deadline=deadline))

    def deactivate_schedule(self, name: str, *, deadline: float) -> Schedule:
        return as_schedule(self._write("POST", f"{schedule_path(name)}/deactivate", None, deadline=deadline))

    def delete_schedule(self, name: str, *, deadline: float) -> None:
        """By id or by key. NotFound when it does not exist any more."""
        self._write("DELETE", schedule_path(name), None, deadline=deadline)

    def probe(self, route: Route, *, deadline: float) -> None:
        """One harmless call, to see whether this kind is answered. For the kinds in PROBES."""
        try:
            self._exchange(self._prepared("GET", PROBES[route]), deadline=deadline)
        except (errors.NotFound, errors.Refused):
            return

    def _write(self, method: str, path: str, body: Any, *, deadline: float) -> Any:
        """Sent once: a write without an answer may still take effect, so the caller has to read first."""
        return self._exchange(self._prepared(method, path, json=body), deadline=deadline)

    def _get(self, path: str, query: Mapping[str, str], *, deadline: float) -> Any:
        return self._send_with_retry("GET", path, deadline=deadline, params=query)

    def _send_with_retry(self, method: str, path: str, *, deadline: float, **content: Any) -> Any:
        """For calls that may be sent twice: reads, and calls with an idempotency key."""
        prepared = self._prepared(method, path, **content)
        failure: errors.TriggerError | None = None
        for left in reversed(range(TRIES)):
            try:
                return self._exchange(prepared, deadline=deadline)
            except errors.TriggerError as error:
                # The first try was sent and may have taken effect, so its error is the one to raise.
                if failure is not None:
                    raise failure from None
                is_worth_it = isinstance(error, errors.NotReached | errors.Failed)
                if not left or not is_worth_it or time.monotonic() + PAUSE_BETWEEN_TRIES >= deadline:
                    raise
                failure = error
                time.sleep(PAUSE_BETWEEN_TRIES)
        raise AssertionError("unreachable")

    def _prepared(self, method: str, path: str, *, params: Mapping[str, str] | None = None, json: Any = None) -> Any:
        """A copy of one prepared request: preparing each one takes longer than sending it."""
        prepared = self._template.copy()
        prepared.method, prepared.url = method, self._base_url + path + (f"?{urlencode(params)}" if params else "")
        if json is not None:
            prepared.prepare_body(None, None, json=json)
        return prepared

    def _exchange(self, prepared: requests.PreparedRequest, *, deadline: float) -> Any:
        left = deadline - time.monotonic()
        if left <= 0:
            raise errors.TimedOut(f"{prepared.path_url} was not sent, the deadline had passed")
        route = route_of(str(prepared.url).removeprefix(self._base_url))
        with self._gate(route, patience=min(READ_TIMEOUT, left)):
            return read_answer(*self._send(prepared, deadline=deadline))

    def _send(self, prepared: requests.PreparedRequest, *, deadline: float) -> tuple[requests.Response, bytes]:
        """The response and its whole body.

        Sent by the adapter and not by a session, which would follow redirects and take proxies from the environment.
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
