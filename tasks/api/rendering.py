"""Response bodies as bytes: runs are inserted as they are stored, without being decoded.

A list has many runs, and serializers would cost more than everything else. `tasks.api.serializers` describes the bodies
for the schema; tests/tasks/api/test_rendering.py compares the two.
"""

import json
import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol
from uuid import UUID

import orjson
from django.http import HttpResponse
from django.utils.cache import get_conditional_response
from rest_framework.request import Request

from core.text import etag_of, format_timestamp
from tasks.runs.copies import PRESIGNED, encode, is_json_object
from tasks.runs.due import RunsStatus
from tasks.runs.reading import EnrichedTask
from tasks.runs.single import SeenRun


class ListedRun(Protocol):
    """A row of LISTED_COLUMNS. A deleted task has an empty title."""

    data: str
    task_id: UUID | None
    task__account_id: UUID | None
    task__title: str | None


COMPRESSION = re.compile(r'[-;:](?:gzip|br|zstd|deflate)"')
LISTED_COLUMNS = ("data", "task_id", "task__account_id", "task__title", "listed_at", "listed_id")


def json_response(body: dict[str, Any]) -> HttpResponse:
    return HttpResponse(orjson.dumps(body), content_type="application/json")


def conditional_response(
    request: Request, body: dict[str, Any], *, etag_fields: dict[str, Any] | None = None
) -> HttpResponse:
    """With an ETag; an empty 304 where the client has the same one.

    `runs_as_of` is not part of the ETag: it changes when nothing else does. `etag_fields` replace fields of the body in
    the ETag.
    """
    dated = body.get("tasks", [body])
    timestamps = [item["runs_as_of"] for item in dated]
    for item in dated:
        item["runs_as_of"] = None
    etag = etag_of(orjson.dumps({**body, **(etag_fields or {})}))
    unmodified = get_conditional_response(with_own_tags(request), etag=etag)
    if unmodified is not None:
        unmodified["ETag"] = etag
        return unmodified
    for item, timestamp in zip(dated, timestamps, strict=True):
        item["runs_as_of"] = timestamp
    response = json_response(body)
    response["ETag"] = etag
    return response


def with_own_tags(request: Request) -> Request:
    """A proxy that compresses an answer appends that to its tag: `W/"...-gzip"`."""
    tags = request.META.get("HTTP_IF_NONE_MATCH")
    if tags:
        request.META["HTTP_IF_NONE_MATCH"] = COMPRESSION.sub('"', tags)
    return request


def tasks_body(tasks: Iterable[EnrichedTask], **more: Any) -> dict[str, Any]:
    return {"status": "success", "tasks": [task_body(task) for task in tasks], **more}


def runs_body(
    runs: Iterable[ListedRun], account_id: UUID, status: RunsStatus, as_of: datetime | None, **more: Any
) -> dict[str, Any]:
    encoded = b",".join(listed_run(run, account_id) for run in runs if is_json_object(run.data))
    return run_fields(encoded, status, as_of) | more


def run_body(seen: SeenRun) -> dict[str, Any]:
    return run_fields(seen.encoded, seen.runs_status, seen.as_of)


def run_fields(encoded: bytes, status: RunsStatus, as_of: datetime | None) -> dict[str, Any]:
    return {
        "status": "success",
        "runs": json_array(encoded),
        "runs_status": status,
        "runs_as_of": as_of and format_timestamp(as_of),
    }


def listed_run(run: ListedRun, account_id: UUID) -> bytes:
    """The run as it is stored, with our two fields at its end: a run can have several owners, a task has one."""
    is_own = run.task__account_id == account_id
    ours = orjson.dumps({"task_id": run.task_id if is_own else None, "title": (is_own and run.task__title) or None})
    return run.data.encode()[:-1] + b"," + ours[1:]


def without_presigned_urls(seen: SeenRun) -> dict[str, Any]:
    """Every answer of Trigger.dev has new presigned URLs, and they expire: in an ETag they count as new each minute."""
    if not seen.has_presigned:
        return {}
    run = json.loads(seen.encoded)
    stable = encode({key: value for key, value in run.items() if key not in PRESIGNED}).encode()
    return {"runs": json_array(stable), "minute": seen.as_of.replace(second=0, microsecond=0)}


def task_body(enriched: EnrichedTask) -> dict[str, Any]:
    task = enriched.task
    return {
        "id": task.id,
        "title": task.title,
        "prompt": task.prompt,
        "schedule": task.schedule,
        "timezone": task.timezone,
        "account_id": task.account_id,
        "artist_account_id": task.artist_account_id,
        "artist_name": getattr(task, "artist_name", None),
        "enabled": task.enabled,
        "model": task.model,
        "owner_email": getattr(task, "owner_email", None),
        "created_at": format_timestamp(task.created_at),
        "updated_at": format_timestamp(task.updated_at),
        "trigger_schedule_id": task.trigger_schedule_id,
        "sync_status": task.sync_status,
        "recent_runs": json_array(enriched.recent_runs),
        "runs_status": enriched.runs_status,
        "runs_as_of": enriched.runs_as_of and format_timestamp(enriched.runs_as_of),
        "trigger_lookup_failed": enriched.is_unavailable,
        "upcoming": timestamp_array(enriched.upcoming),
    }


def json_array(encoded: bytes) -> orjson.Fragment:
    return orjson.Fragment(b"[" + encoded + b"]")


@lru_cache(maxsize=8192)
def timestamp_array(timestamps: tuple[datetime, ...]) -> orjson.Fragment:
    """Cached: the same ten times are shown until the first of them has passed."""
    return orjson.Fragment(orjson.dumps([format_timestamp(at) for at in timestamps]))
