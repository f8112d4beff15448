"""The answers that many ask for, as bytes: runs are spliced in as they are kept, without being decoded.

`tasks.serializers` describes them for the schema; a test holds the two to each other.
"""

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson
from django.http import HttpResponse

from tasks.enrichment import EnrichedTask
from tasks.known import Known
from tasks.moments import as_text


def answer(body: Any) -> HttpResponse:
    return HttpResponse(orjson.dumps(body), content_type="application/json")


def tasks_answer(tasks: Iterable[EnrichedTask]) -> HttpResponse:
    return answer({"status": "success", "tasks": [task_body(task) for task in tasks]})


def runs_answer(known: Known) -> HttpResponse:
    return answer(
        {
            "status": "success",
            "runs": spliced(known.snapshot.encoded if known.snapshot else b""),
            "runs_status": known.status,
            "runs_as_of": known.as_of and as_text(known.as_of),
        }
    )


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
