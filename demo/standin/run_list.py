"""The list of runs: its filters, its time window and its cursor pagination, with the special cases of Trigger.dev."""

import json
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import datetime

from demo.standin import run_json
from demo.standin.messages import Reply, query_error, query_errors
from demo.standin.state import StandinRun

DEFAULT_WINDOW = 7 * 24 * 3600.0
PERIOD_UNITS = {"": 0.001, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31557600}


def split_commas(value: str | None) -> list[str]:
    """The parts of a comma-separated list. An empty value means no filter. Empty parts match nothing."""
    return value.split(",") if value else []


def matches_filters(run: StandinRun, query: Mapping[str, str], *, now: float) -> bool:
    tasks, statuses = split_commas(query.get("filter[taskIdentifier]")), split_commas(query.get("filter[status]"))
    if tasks and run.task not in tasks:
        return False
    if query.get("filter[isTest]") in ("true", "false") and run.is_test != (query["filter[isTest]"] == "true"):
        return False
    stored = run_json.stored_status(run, now=now)
    return not statuses or any(stored in run_json.STORED_BY_FILTER[status] for status in statuses)


def time_window(query: Mapping[str, str], *, now: float) -> tuple[float, float]:
    """(since, until) in epoch seconds. Without any of the three filters: the last seven days."""
    start, end = query.get("filter[createdAt][from]"), query.get("filter[createdAt][to]")
    period = query.get("filter[createdAt][period]")
    if not (start or end or period):
        return now - DEFAULT_WINDOW, math.inf
    match = re.fullmatch(r"(\d+)([a-z]*)", period or "")
    since = now - int(match[1]) * PERIOD_UNITS[match[2]] if match and match[2] in PERIOD_UNITS else 0.0
    return max(since, parse_time(start) if start else 0.0), parse_time(end) if end else math.inf


def parse_time(text: str) -> float:
    return int(text) / 1000 if text.isdigit() else datetime.fromisoformat(text).timestamp()


def paginate(runs: list[StandinRun], query: Mapping[str, str], *, size: int) -> tuple[list[StandinRun], dict[str, str]]:
    """One page and its cursors. `page[before]` takes precedence over `page[after]`, and has ascending order."""
    before, after = query.get("page[before]"), query.get("page[after]")
    if before:
        newer = [run for run in runs if sort_key(run) > decode_cursor(before)][-size:]
        return newer[::-1], make_cursors(runs, newer)
    if after:
        runs_after = [run for run in runs if sort_key(run) < decode_cursor(after)][:size]
        return runs_after, make_cursors(runs, runs_after)
    return runs[:size], make_cursors(runs, runs[:size])


def make_cursors(runs: list[StandinRun], page: list[StandinRun]) -> dict[str, str]:
    """Runs are newest first. A direction without more runs has no key."""
    found: dict[str, str] = {}
    if page and page[-1] is not runs[-1]:
        found["next"] = encode_cursor(page[-1])
    if page and page[0] is not runs[0]:
        found["previous"] = encode_cursor(page[0])
    return found


def sort_key(run: StandinRun) -> tuple[int, str]:
    return round(run.created * 1000), run.id.removeprefix("run_")


def encode_cursor(run: StandinRun) -> str:
    created, internal_id = sort_key(run)
    return (
        urlsafe_b64encode(json.dumps({"c": created, "r": internal_id}, separators=(",", ":")).encode())
        .decode()
        .rstrip("=")
    )


def decode_cursor(text: str) -> tuple[int, str]:
    """An invalid cursor is not rejected. It is compared like a run id, and so returns an arbitrary page."""
    try:
        value = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return int(value["c"]), str(value["r"])
    except (ValueError, KeyError, TypeError):
        return 0, text


def page_size_error(size: str) -> Reply | None:
    path = ["page[size]"]
    if not re.fullmatch(r"-?\d+", size):
        message = "Expected number, received nan"
        return query_error(code="invalid_type", expected="number", received="nan", path=path, message=message)
    number = {"type": "number", "exact": False, "path": path}
    if int(size) < 1:
        not_positive = {
            "code": "too_small",
            "minimum": 0,
            "inclusive": False,
            "message": "Number must be greater than 0",
        }
        too_small = {"code": "too_small", "minimum": 1, "inclusive": True}
        too_small["message"] = "Number must be greater than or equal to 1"
        return query_errors([{**not_positive, **number}, {**too_small, **number}])
    if int(size) > 100:
        message = "Number must be less than or equal to 100"
        return query_error(code="too_big", maximum=100, inclusive=True, message=message, **number)
    return None


def status_filter_error(statuses: str | None) -> Reply | None:
    unknown = [status for status in split_commas(statuses) if status not in run_json.STORED_BY_FILTER]
    if not unknown:
        return None
    message = f"Invalid status values: {', '.join(unknown)}"
    return query_error(code="custom", message=message, path=["filter[status]"])
