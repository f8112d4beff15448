"""Turns a request into the reply that the real server was recorded to give.

This module opens no sockets: the HTTP mock of the tests and the HTTP server share it.
"""

import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from demo.standin import run_json, schedules
from demo.standin.faults import Fault, Faults
from demo.standin.messages import (
    JSON,
    PROBLEM,
    Reply,
    Request,
    error,
    ok,
    problem,
    query_error,
    rate_limit_exceeded,
    to_json,
)
from demo.standin.run_list import (
    matches_filters,
    page_size_error,
    paginate,
    split_commas,
    status_filter_error,
    time_window,
)
from demo.standin.state import StandinRun, State

HTML_PAGE = (
    "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'/><title>404</title></head><body>{}</body></html>"
)


@dataclass
class Standin:
    """The stand-in for Trigger.dev. `keys` maps each secret key to its environment.

    `asked` counts the requests by route, and `log` lists them.
    """

    state: State
    keys: Mapping[str, Mapping[str, str]]
    faults: Faults = field(default_factory=Faults)
    rate_limit: int = 750
    asked: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)
    # The times of the requests in `log`, in epoch seconds.
    asked_at: list[float] = field(default_factory=list)
    # Requests that timed out and have not taken effect yet.
    late: list[Request] = field(default_factory=list)
    # Hooks for tests that interrupt an exchange.
    before: Callable[[Request], None] = lambda request: None
    after: Callable[[Request], None] = lambda request: None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[float, float]] = {}

    def meet(self, request: Request) -> Fault | None:
        """Counts the request, and returns the fault that applies to it."""
        with self._lock:
            self.asked["all"] += 1
            self.asked[f"{request.method} {route_name(request.path)}"] += 1
            self.log.append(f"{request.method} {request.target}")
            self.asked_at.append(time.time())
            return self.faults.next(request.method, request.path)

    def do_late(self) -> None:
        """Lets all requests in `late` take effect."""
        while self.late:
            self.answer(self.late.pop(0))

    def answer(self, request: Request) -> Reply:
        """Handles the request without a fault. Time zones are public and have no rate limit."""
        if (request.method, request.path) == ("GET", "/api/v1/timezones"):
            return schedules.list_timezones(request)
        authorization = request.header("authorization")
        if authorization is None:
            return problem(401, "Unauthorized", "No authorization header provided")
        key = authorization.removeprefix("Bearer ")
        refusal, headers = self.take_token(key)
        if refusal:
            return Reply(refusal.status, refusal.body, PROBLEM, headers)
        reply = self.route(request, self.keys.get(key))
        return Reply(reply.status, reply.body, reply.content_type, {**headers, **reply.headers})

    def route(self, request: Request, environment: Mapping[str, str] | None) -> Reply:
        for method, pattern, operation in ROUTES:
            match = re.fullmatch(pattern, request.path)
            if match and method == request.method:
                if environment is None:
                    of_schedules = request.path.startswith("/api/v1/schedules")
                    return error(401, "Invalid or Missing API Key" if of_schedules else "Invalid API key")
                return operation(self.state, request, environment, *(unquote(part) for part in match.groups()))
        return Reply(404, HTML_PAGE.format("Page not found").encode(), "text/html; charset=utf-8")

    def take_token(self, key: str) -> tuple[Reply | None, dict[str, str]]:
        """A token bucket for each key: at most `rate_limit` tokens, of which a third is refilled every ten seconds."""
        if not self.rate_limit:
            return None, {}
        with self._lock:
            now, refill = self.state.now, self.rate_limit / 30
            tokens, since = self._tokens.get(key, (float(self.rate_limit), now))
            tokens = min(float(self.rate_limit), tokens + (now - since) * refill) - 1
            self._tokens[key] = (max(tokens, -1.0), now)
        reset = round((now + (self.rate_limit - tokens) / refill) * 1000)
        headers = {
            "x-ratelimit-limit": str(self.rate_limit),
            "x-ratelimit-remaining": str(max(math.floor(tokens), 0)),
            "x-ratelimit-reset": str(reset),
        }
        return (
            rate_limit_exceeded(self.rate_limit, reset, seconds=(1 - tokens) / refill) if tokens < 0 else None
        ), headers


# --- Operations ------------------------------------------------------------------------------------------------------


def list_runs(state: State, request: Request, environment: Mapping[str, str]) -> Reply:
    query, now = request.query, state.now
    size = query.get("page[size]", "25")
    refusal = page_size_error(size) or status_filter_error(query.get("filter[status]"))
    if refusal:
        return refusal
    try:
        since, until = time_window(query, now=now)
    except ValueError:
        return query_error(code="custom", message="Invalid date", path=["filter[createdAt]"])
    found = state.newest_runs(
        schedule_ids=split_commas(query.get("filter[schedule]")),
        tags=[] if state.ignores_tags else split_commas(query.get("filter[tag]")),
        since=since,
    )
    replicas, versioned = state.replicas, is_versioned(request)
    if replicas is None:
        wanted = [run for run in found if run.created <= until and matches_filters(run, query, now=now)]
        page, pagination = paginate(wanted, query, size=int(size))
        items = [run_json.list_item(run, environment, now=now, versioned=versioned) for run in page]
        return ok({"data": items, "pagination": pagination})
    replica, items = replicas.pick(), []
    seen = [(run, now - replicas.lag(run, replica)) for run in found if run.created <= until]
    wanted = [run for run, at in seen if (run.inserted or 0.0) <= at and matches_filters(run, query, now=at)]
    page, pagination = paginate(wanted, query, size=int(size))
    for run in page:
        at = now if replicas.shows_newest() else now - replicas.lag(run, replica)
        if matches_filters(run, query, now=at) and not replicas.drops_item(run, now=now):
            items.append(run_json.list_item(run, environment, now=at, versioned=versioned))
    return ok({"data": items, "pagination": pagination})


def retrieve_run(state: State, request: Request, environment: Mapping[str, str], run_id: str) -> Reply:
    run = state.run(run_id)
    if run is None:
        return Reply(404, to_json({"error": "Not found"}), headers={"x-should-retry": "true"})
    return ok(run_json.run_detail(run, state, versioned=is_versioned(request)))


def trigger_run(state: State, request: Request, environment: Mapping[str, str], task: str) -> Reply:
    """Accepts any task identifier. The same idempotency key returns the same run, unless that one has failed."""
    try:
        body = json.loads(request.body)
    except ValueError:
        return error(400, "Invalid JSON")
    options = (body.get("options") or {}) if isinstance(body, dict) else {}
    tags = options.get("tags") or []
    if len(tags) > 10:
        return error(422, f"Runs can only have 10 tags, you're trying to set {len(tags)}.")
    for index, tag in enumerate(tags):
        if len(tag) >= 128:
            return error(400, f'Validation error: Tags must be less than 128 characters at "options.tags[{index}]"')
    key = options.get("idempotencyKey")
    existing = state.run_by_idempotency_key(key) if key else None
    if existing is not None and run_json.has_failed(existing, now=state.now):
        state.forget_idempotency_key(existing.id)
    elif existing is not None:
        return ok({"id": existing.id, "isCached": True})
    run = StandinRun(
        task=task,
        created=state.now,
        tags=tags,
        payload=body.get("payload") if isinstance(body, dict) else None,
        idempotency_key=key,
        has_output=True,
        output="done",
    )
    return ok({"id": state.add_run(run).id, "isCached": False})


Operation = Callable[..., Reply]
ROUTES: tuple[tuple[str, str, Operation], ...] = (
    ("GET", "/api/v1/runs", list_runs),
    ("GET", "/api/v3/runs/([^/]+)", retrieve_run),
    ("POST", "/api/v1/tasks/([^/]+)/trigger", trigger_run),
    ("GET", "/api/v1/schedules", schedules.list_schedules),
    ("POST", "/api/v1/schedules", schedules.put_by_key),
    ("GET", "/api/v1/schedules/([^/]+)", schedules.retrieve),
    ("PUT", "/api/v1/schedules/([^/]+)", schedules.put_by_id),
    ("DELETE", "/api/v1/schedules/([^/]+)", schedules.delete),
    ("POST", "/api/v1/schedules/([^/]+)/activate", schedules.activate),
    ("POST", "/api/v1/schedules/([^/]+)/deactivate", schedules.deactivate),
)


def is_versioned(request: Request) -> bool:
    return request.header("x-trigger-api-version") == run_json.API_VERSION


def failed(standin: Standin, fault: Fault) -> Reply:
    """The reply for a fault of kind `status`, `rate_limit` or `garbage`."""
    if fault.kind == "rate_limit":
        reset = round((standin.state.now + fault.seconds) * 1000)
        reply = rate_limit_exceeded(750, reset, seconds=fault.seconds)
        headers = {"x-ratelimit-limit": "750", "x-ratelimit-remaining": "0", "x-ratelimit-reset": str(reset)}
        return Reply(429, reply.body, PROBLEM, headers)
    if fault.kind == "garbage":
        return Reply(200, b'{"data": [{"id": "run_', JSON)
    if fault.status >= 500:
        return Reply(fault.status, b"Unexpected Server Error", "text/plain; charset=utf-8")
    return error(fault.status, fault.message)


def route_name(path: str) -> str:
    """The path with a placeholder for ids. Requests are counted under this name."""
    path = re.sub(r"^(/api/v\d/(?:runs|schedules))/[^/]+", r"\1/{id}", path)
    return re.sub(r"^(/api/v1/tasks)/[^/]+/trigger$", r"\1/{id}/trigger", path)
