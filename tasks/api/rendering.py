"""The answers that many ask for, as bytes: runs are spliced in as they are kept, without being decoded.

`tasks.serializers` describes them for the schema; a test holds the two to each other.
"""

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson
from django.http import HttpResponse, HttpResponseNotModified
from django.utils.http import parse_etags

from core.digests import etag_of
from core.timestamps import as_text
from tasks.runs.enrichment import EnrichedTask
from tasks.runs.known import Known, last_known


def answer(body: dict[str, Any]) -> HttpResponse:
    return HttpResponse(orjson.dumps(body), content_type="application/json")


def tagged_answer(body: dict[str, Any], *, etags: str | None, tagged_as: dict[str, Any] | None = None) -> HttpResponse:
    """With an entity tag; a 304 where the client has it. `etags`: its If-None-Match, if it sent one.

    When Trigger.dev was asked is no part of the tag: it changes when nothing else does. `tagged_as`: what of the body
    is something else in the tag.
    """
    dated = body.get("tasks", [body])
    moments = [item["runs_as_of"] for item in dated]
    for item in dated:
        item["runs_as_of"] = None
    etag = etag_of(orjson.dumps({**body, **(tagged_as or {})}))
    if etags is not None and is_one_of(etag, etags):
        return HttpResponseNotModified(headers={"ETag": etag})
    for item, moment in zip(dated, moments, strict=True):
        item["runs_as_of"] = moment
    response = answer(body)
    response["ETag"] = etag
    return response


def is_one_of(etag: str, etags: str) -> bool:
    """Compared weakly: with or without the mark of a weak one, it says the same."""
    return any(one == "*" or one.removeprefix("W/") == etag.removeprefix("W/") for one in parse_etags(etags))


def tasks_body(tasks: Iterable[EnrichedTask], **more: Any) -> dict[str, Any]:
    return {"status": "success", "tasks": [task_body(task) for task in tasks], **more}


def runs_body(known: Known) -> dict[str, Any]:
    return {
        "status": "success",
        "runs": spliced(known.snapshot.encoded if known.snapshot else b""),
        "runs_status": known.status,
        "runs_as_of": known.as_of and as_text(known.as_of),
    }


def dated_addresses(known: Known) -> dict[str, Any]:
    """Signed addresses are new with each answer of Trigger.dev, and expire: in a tag they count as new each minute."""
    if known.snapshot is None or not known.snapshot.is_short_lived:
        return {}
    stable = last_known(known.snapshot)
    return {"runs": spliced(stable.encoded), "minute": stable.as_of.replace(second=0, microsecond=0)}


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
        "created_at": as_text(task.created_at),
        "updated_at": as_text(task.updated_at),
        "trigger_schedule_id": task.trigger_schedule_id,
        "sync_status": task.sync_status,
        "recent_runs": spliced(enriched.recent_runs),
        "runs_status": enriched.runs_status,
        "runs_as_of": enriched.runs_as_of and as_text(enriched.runs_as_of),
        "upcoming": times(enriched.upcoming),
    }


def spliced(encoded: bytes) -> orjson.Fragment:
    return orjson.Fragment(b"[" + encoded + b"]")


@lru_cache(maxsize=8192)
def times(moments: tuple[datetime, ...]) -> orjson.Fragment:
    """The same ten times are shown until the first of them has passed."""
    return orjson.Fragment(orjson.dumps([as_text(moment) for moment in moments]))
