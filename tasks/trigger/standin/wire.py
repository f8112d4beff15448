"""Request -> reply, as the real server was recorded to answer.

No sockets here: the mock in tests and the HTTP server share it.
"""

import json
import math
import re
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tasks.trigger.standin import shapes
from tasks.trigger.standin.faults import Fault, Faults
from tasks.trigger.standin.state import StandinRun, State

DEFAULT_WINDOW = 7 * 24 * 3600.0
PERIOD_UNITS = {"": 0.001, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31557600}
JSON = "application/json; charset=utf-8"
PROBLEM = "application/problem+json; charset=utf-8"
MDN = "https://developer.mozilla.org/en-US/docs/Web/HTTP/Status/"
PAGE = "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'/><title>404</title></head><body>{}</body></html>"


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """Of a repeated parameter the last one wins."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers.items() if key.lower() == name), None)


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Standin:
    """The stand-in itself. `keys` maps a secret key to the environment it opens."""

    state: State
    keys: Mapping[str, Mapping[str, str]]
    faults: Faults = field(default_factory=Faults)
    rate_limit: int = 750
    asked: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[float, float]] = {}

    def meet(self, request: Request) -> Fault | None:
        """Counts the request, and says which fault it meets."""
        with self._lock:
            self.asked["all"] += 1
            self.asked[f"{request.method} {route_name(request.path)}"] += 1
            self.log.append(f"{request.method} {request.target}")
            return self.faults.next(request.method, request.path)

    def answer(self, request: Request) -> Reply:
        """What a faultless Trigger.dev says, and does."""
        authorization = request.header("authorization")
        if authorization is None:
            return problem(401, "Unauthorized", "No authorization header provided")
        key = authorization.removeprefix("Bearer ")
        limited, headers = self.take_token(key)
        if limited:
            return Reply(limited.status, limited.body, PROBLEM, headers)
        reply = self.route(request, self.keys.get(key))
        return Reply(reply.status, reply.body, reply.content_type, {**headers, **reply.headers})

    def route(self, request: Request, environment: Mapping[str, str] | None) -> Reply:
        for method, pattern, operation in ROUTES:
            match = re.fullmatch(pattern, request.path)
            if match and method == request.method:
                if environment is None:
                    return error(401, "Invalid API key")
                return operation(self, request, environment, *(unquote(part) for part in match.groups()))
        return Reply(404, PAGE.format("Page not found").encode(), "text/html; charset=utf-8")

    def take_token(self, key: str) -> tuple[Reply | None, dict[str, str]]:
        """A bucket for each key: `rate_limit` at most, a third of it back every ten seconds (FACTS 9)."""
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
        return (too_many(self.rate_limit, reset, seconds=(1 - tokens) / refill) if tokens < 0 else None), headers


# --- Operations ------------------------------------------------------------------------------------------------------


def list_runs(standin: Standin, request: Request, environment: Mapping[str, str]) -> Reply:
    query, now = request.query, standin.state.now
    size = query.get("page[size]", "25")
    refusal = wrong_page_size(size) or wrong_status(query.get("filter[status]"))
    if refusal:
        return refusal
    try:
        since, until = window(query, now=now)
    except ValueError:
        return query_error(code="custom", message="Invalid date", path=["filter[createdAt]"])
    found = standin.state.newest_runs(
        schedule_ids=split(query.get("filter[schedule]")), tags=split(query.get("filter[tag]")), since=since
    )
    wanted = [run for run in found if run.created <= until and matches(run, query, now=now)]
    page, pagination = paged(wanted, query, size=int(size))
    versioned = is_versioned(request)
    items = [shapes.listed(run, environment, now=now, versioned=versioned) for run in page]
    return ok({"data": items, "pagination": pagination})


def retrieve_run(standin: Standin, request: Request, environment: Mapping[str, str], run_id: str) -> Reply:
    run = standin.state.run(run_id)
    if run is None:
        return Reply(404, encoded({"error": "Not found"}), headers={"x-should-retry": "true"})
    return ok(shapes.retrieved(run, standin.state, versioned=is_versioned(request)))


def trigger_run(standin: Standin, request: Request, environment: Mapping[str, str], task: str) -> Reply:
    """Any task identifier is accepted; the same idempotency key gives the same run (FACTS 9a)."""
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
    former = standin.state.run_by_idempotency_key(key) if key else None
    if former is not None:
        return ok({"id": former.id, "isCached": True})
    run = StandinRun(
        task=task,
        created=standin.state.now,
        tags=tags,
        payload=body.get("payload") if isinstance(body, dict) else None,
        idempotency_key=key,
        has_output=True,
        output="done",
    )
    return ok({"id": standin.state.add_run(run).id, "isCached": False})


Operation = Callable[..., Reply]
ROUTES: tuple[tuple[str, str, Operation], ...] = (
    ("GET", "/api/v1/runs", list_runs),
    ("GET", "/api/v3/runs/([^/]+)", retrieve_run),
    ("POST", "/api/v1/tasks/([^/]+)/trigger", trigger_run),
)


# --- The parts of a list ---------------------------------------------------------------------------------------------


def split(value: str | None) -> list[str]:
    """A comma list. An empty value is no filter at all, and one of empty parts finds nothing (FACTS 2)."""
    return value.split(",") if value else []


def matches(run: StandinRun, query: Mapping[str, str], *, now: float) -> bool:
    tasks, statuses = split(query.get("filter[taskIdentifier]")), split(query.get("filter[status]"))
    if tasks and run.task not in tasks:
        return False
    if query.get("filter[isTest]") in ("true", "false") and run.is_test != (query["filter[isTest]"] == "true"):
        return False
    stored = shapes.stored_status(run, now=now)
    return not statuses or any(stored in shapes.STORED_BY_FILTER[status] for status in statuses)


def window(query: Mapping[str, str], *, now: float) -> tuple[float, float]:
    """(since, until) in epoch seconds. Without any of the three filters the last seven days."""
    start, end = query.get("filter[createdAt][from]"), query.get("filter[createdAt][to]")
    period = query.get("filter[createdAt][period]")
    if not (start or end or period):
        return now - DEFAULT_WINDOW, math.inf
    match = re.fullmatch(r"(\d+)([a-z]*)", period or "")
    since = now - int(match[1]) * PERIOD_UNITS[match[2]] if match and match[2] in PERIOD_UNITS else 0.0
    return max(since, instant(start) if start else 0.0), instant(end) if end else math.inf


def instant(text: str) -> float:
    return int(text) / 1000 if text.isdigit() else datetime.fromisoformat(text).timestamp()


def paged(runs: list[StandinRun], query: Mapping[str, str], *, size: int) -> tuple[list[StandinRun], dict[str, str]]:
    """One page and its cursors. `page[before]` wins over `page[after]`, and gives its page in ascending order."""
    before, after = query.get("page[before]"), query.get("page[after]")
    if before:
        newer = [run for run in runs if position(run) > decoded(before)][-size:]
        return newer[::-1], cursors(runs, newer)
    if after:
        runs_after = [run for run in runs if position(run) < decoded(after)][:size]
        return runs_after, cursors(runs, runs_after)
    return runs[:size], cursors(runs, runs[:size])


def cursors(runs: list[StandinRun], page: list[StandinRun]) -> dict[str, str]:
    """Newest first; a direction in which there is nothing has no key."""
    found: dict[str, str] = {}
    if page and page[-1] is not runs[-1]:
        found["next"] = cursor(page[-1])
    if page and page[0] is not runs[0]:
        found["previous"] = cursor(page[0])
    return found


def position(run: StandinRun) -> tuple[int, str]:
    return round(run.created * 1000), run.id.removeprefix("run_")


def cursor(run: StandinRun) -> str:
    created, internal_id = position(run)
    return (
        urlsafe_b64encode(json.dumps({"c": created, "r": internal_id}, separators=(",", ":")).encode())
        .decode()
        .rstrip("=")
    )


def decoded(text: str) -> tuple[int, str]:
    """Garbage is not rejected: it is compared like a run id, so that some page or other comes back."""
    try:
        value = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return int(value["c"]), str(value["r"])
    except (ValueError, KeyError, TypeError):
        return 0, text


def wrong_page_size(size: str) -> Reply | None:
    path = ["page[size]"]
    if not re.fullmatch(r"-?\d+", size):
        message = "Expected number, received nan"
        return query_error(code="invalid_type", expected="number", received="nan", path=path, message=message)
    number = {"type": "number", "exact": False, "path": path}
    if int(size) < 1:
        below = {"code": "too_small", "minimum": 0, "inclusive": False, "message": "Number must be greater than 0"}
        least = {"code": "too_small", "minimum": 1, "inclusive": True}
        least["message"] = "Number must be greater than or equal to 1"
        return query_errors([{**below, **number}, {**least, **number}])
    if int(size) > 100:
        message = "Number must be less than or equal to 100"
        return query_error(code="too_big", maximum=100, inclusive=True, message=message, **number)
    return None


def wrong_status(statuses: str | None) -> Reply | None:
    unknown = [status for status in split(statuses) if status not in shapes.STORED_BY_FILTER]
    if not unknown:
        return None
    message = f"Invalid status values: {', '.join(unknown)}"
    return query_error(code="custom", message=message, path=["filter[status]"])


# --- Replies ---------------------------------------------------------------------------------------------------------


def is_versioned(request: Request) -> bool:
    return request.header("x-trigger-api-version") == shapes.API_VERSION


def encoded(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def ok(body: Any) -> Reply:
    return Reply(200, encoded(body))


def error(status: int, message: str) -> Reply:
    return Reply(status, encoded({"error": message}))


def query_error(**issue: Any) -> Reply:
    return query_errors([issue])


def query_errors(issues: list[dict[str, Any]]) -> Reply:
    return Reply(400, encoded({"error": "Query Error", "details": issues}))


def problem(status: int, title: str, detail: str, **more: Any) -> Reply:
    body = {"title": title, "status": status, "type": f"{MDN}{status}", "detail": detail, **more, "error": detail}
    return Reply(status, encoded(body), PROBLEM)


def too_many(limit: int, reset: int, *, seconds: float) -> Reply:
    """`reset` in epoch milliseconds; there is never a Retry-After."""
    detail = f"Rate limit exceeded 0/{limit} requests remaining. Retry in {seconds:.3f} seconds."
    return problem(
        429, "Rate Limit Exceeded", detail, reset=reset, limit=limit, remaining=-1, secondsUntilReset=round(seconds, 3)
    )


def failed(standin: Standin, fault: Fault) -> Reply:
    """The answer of a fault that has one."""
    if fault.kind == "rate_limit":
        reset = round((standin.state.now + fault.seconds) * 1000)
        reply = too_many(750, reset, seconds=fault.seconds)
        headers = {"x-ratelimit-limit": "750", "x-ratelimit-remaining": "0", "x-ratelimit-reset": str(reset)}
        return Reply(429, reply.body, PROBLEM, headers)
    if fault.kind == "garbage":
        return Reply(200, b'{"data": [{"id": "run_', JSON)
    if fault.status >= 500:
        return Reply(fault.status, b"Unexpected Server Error", "text/plain; charset=utf-8")
    return error(fault.status, "The stand-in was told to answer so")


def route_name(path: str) -> str:
    """The path with its ids taken out, under which requests are counted."""
    path = re.sub(r"^(/api/v\d/(?:runs|schedules))/[^/]+", r"\1/{id}", path)
    return re.sub(r"^(/api/v1/tasks)/[^/]+/trigger$", r"\1/{id}/trigger", path)
