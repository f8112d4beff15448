"""Trigger.dev's responses as our types or as errors. The facts come from recordings of the real server."""

import json
import logging
import math
import re
import time
from datetime import datetime
from typing import Any, cast

import requests

from tasks.trigger import errors
from tasks.trigger.types import Allowance, Run, RunPage, Schedule, SchedulePage

MAX_BODY = 32 * 1024 * 1024
# Levels of nesting. Python's own encoder gives up at about twice as many.
MAX_DEPTH = 400
MAX_DIGITS = 4000
DEFAULT_RETRY_AFTER = 10.0
# Seconds. A reset further ahead was computed with a wrong clock.
MAX_RETRY_AFTER = 600.0
MAX_CLOCK_DIFFERENCE = 5.0
MAX_ID = 100
# Strings and brackets of JSON.
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
RUN_KEYS = ("id", "status", "taskIdentifier", "createdAt", "updatedAt")

logger = logging.getLogger(__name__)


def read_body(response: requests.Response) -> bytes:
    body = bytearray()
    while chunk := response.raw.read1(64 * 1024, decode_content=True):
        body += chunk
        if len(body) > MAX_BODY:
            raise errors.TooLarge(f"more than {MAX_BODY} bytes")
    return bytes(body)


def read_answer(response: requests.Response, body: bytes) -> Any:
    """The JSON of a success. Raises the error that the status, and then the body, stands for."""
    status, answer = response.status_code, parsed(body)
    if status == 200:
        if answer is None:
            raise errors.BrokenAnswer(f"200 without JSON, {content_type(response)}")
        return answer
    reason = as_text(answer.get("error")) if isinstance(answer, dict) else ""
    if status == 429:
        told = answer.get("secondsUntilReset") if isinstance(answer, dict) else None
        raise errors.TooManyRequests(reason, retry_after=seconds_until_reset(response, told))
    # A JSON 404 means an unknown run or schedule; an HTML 404 an unknown route, so a wrong URL.
    if status == 404 and reason:
        raise errors.NotFound(reason)
    if status in (400, 401, 403, 405, 422) and reason:
        raise errors.Refused(f"{status}, {reason}", reason=reason, status=status)
    if status >= 500:
        raise errors.Failed(f"{status}, {reason or content_type(response)}")
    raise errors.BrokenAnswer(f"{status}, {content_type(response)}")


def as_text(told: Any) -> str:
    """As a database can store it: JSON may contain half of a surrogate pair, or NUL."""
    return str(told or "").encode("utf-8", "replace").decode().replace("\0", "?")


def is_id(text: Any) -> bool:
    return isinstance(text, str) and 0 < len(text) <= MAX_ID and text.isascii() and text.isprintable()


def seconds_until_reset(response: requests.Response, told: Any = None) -> float:
    """From `x-ratelimit-reset`, epoch milliseconds (recorded: ratelimit_default_429); there is never a Retry-After.

    `told`: the seconds in the body of a 429. They decide where our clock and Trigger.dev's disagree; where the two
    nearly agree, the longer wait does.
    """
    left, told_left = as_seconds(response.headers.get("x-ratelimit-reset"), unit=0.001) - time.time(), as_seconds(told)
    if math.isfinite(told_left):
        left = max(left, told_left) if abs(left - told_left) <= MAX_CLOCK_DIFFERENCE else told_left
    return min(max(left, 0.0), MAX_RETRY_AFTER) if math.isfinite(left) else DEFAULT_RETRY_AFTER


def as_time(value: Any) -> datetime | None:
    """None for anything that is not a time with a time zone."""
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo is not None else None


def as_seconds(value: Any, *, unit: float = 1.0) -> float:
    """NaN for anything that is not a number."""
    try:
        return float(value) * unit
    except (TypeError, ValueError, OverflowError):
        return math.nan


def allowance_of(response: requests.Response) -> Allowance | None:
    """From the three x-ratelimit headers of every authenticated answer (recorded: ratelimit_*)."""
    try:
        limit, remaining = (int(response.headers[f"x-ratelimit-{name}"]) for name in ("limit", "remaining"))
    except (KeyError, ValueError):
        return None
    return Allowance(limit, remaining, seconds_until_reset(response))


def parsed(body: bytes) -> Any:
    """The JSON of a body, with NaN and infinity as None. None for invalid JSON.

    In a list, items that are nested too deeply are left out: one run must not hide those of everybody else.
    """
    found = decoded(body)
    return readable_items(body) if found is None else found


def decoded(text: bytes) -> Any:
    """None for invalid JSON, and for JSON nested too deeply."""
    try:
        found = json.loads(text, parse_constant=lambda _: None, parse_float=finite, parse_int=bounded)
    except (ValueError, RecursionError):
        return None
    may_be_deep = text.count(b"[") + text.count(b"{") > MAX_DEPTH
    return None if may_be_deep and is_too_deep(found) else found


def readable_items(body: bytes) -> Any:
    """A list without those items of `data` that cannot be decoded; None if the rest cannot be decoded either."""
    depth, start, spans = 0, 0, list[tuple[int, int]]()
    data_start, data_end, previous = -1, -1, b""
    for token in TOKEN.finditer(body):
        text = token[0]
        if text in (b"[", b"{"):
            depth += 1
            if depth == 2 and text == b"[" and previous == b'"data"' and data_start < 0:
                data_start = token.end()
            elif depth == 3 and data_end < 0 <= data_start:
                start = token.start()
        elif text in (b"]", b"}"):
            if depth == 3 and data_end < 0 <= data_start:
                spans.append((start, token.end()))
            elif depth == 2 and data_end < 0 <= data_start:
                data_end = token.start()
            depth -= 1
        previous = text
    rest = decoded(body[:data_start] + body[data_end:]) if data_end > 0 else None
    if not isinstance(rest, dict):
        return None
    items = [decoded(body[begin:end]) for begin, end in spans]
    rest["data"] = [item for item in items if item is not None]
    logger.warning("%d of %d items of a list cannot be decoded", len(items) - len(rest["data"]), len(items))
    return rest


def bounded(text: str) -> int | None:
    """Python refuses to convert longer numbers."""
    return int(text) if len(text) <= MAX_DIGITS else None


def finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
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
    """Items are checked when they are stored: one that lacks something must not hide the others."""
    if not isinstance(body, dict) or not isinstance(body.get("data"), list):
        raise errors.BrokenAnswer("a list of runs without data")
    pagination = body.get("pagination")
    following = pagination.get("next") if isinstance(pagination, dict) else None
    items = [cast(Run, item) for item in body["data"] if isinstance(item, dict) and is_id(item.get("id"))]
    return RunPage(items, next=following if isinstance(following, str) else None)


def as_run(body: Any) -> Run:
    """The run unchanged. Raises BrokenAnswer where it lacks what the contract and the access check need."""
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
            next_run=as_time(body.get("nextRun")),
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise errors.BrokenAnswer("a schedule without id, task, cron or time zone") from error
    texts = (schedule.id, schedule.task, schedule.cron, schedule.timezone)
    names = (schedule.external_id, schedule.key)
    is_whole = all(isinstance(text, str) for text in texts) and isinstance(schedule.active, bool)
    if not is_whole or not all(isinstance(name, str | None) for name in names) or not is_id(schedule.id):
        raise errors.BrokenAnswer("a schedule with a part of the wrong type")
    return schedule
