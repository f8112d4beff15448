"""Copies of runs: what an answer of Trigger.dev says of a run, as far as a row keeps it.

The item of a list is kept as it was sent, as JSON text. One that lacks what a row needs is skipped and counted.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import orjson
import prometheus_client

from core.text import parse_timestamp
from tasks.runs.owners import account_tags, tagged_accounts
from tasks.trigger import types
from tasks.trigger.responses import as_text

# Trigger.dev's own isCompleted is false for the last two (recorded: run_get_14_EXPIRED, run_get_15_TIMED_OUT).
FAILED = frozenset(("FAILED", "CRASHED", "SYSTEM_FAILURE", "TIMED_OUT", "EXPIRED", "INTERRUPTED"))
FINAL = FAILED | {"COMPLETED", "CANCELED"}
# Addresses in a retrieved run, which expire.
PRESIGNED = ("payloadPresignedUrl", "outputPresignedUrl")
LEFT_OUT_OF_LISTS = ("payload", "output", "error", "attempts", "schedule", "relatedRuns", *PRESIGNED)
# Characters of a status that a row keeps.
MAX_STATUS = 40
# Bytes. A larger item is stored without its metadata.
MAX_DATA = 64 * 1024
# What a copy that is not as it should be raises.
UNREADABLE = (KeyError, TypeError, ValueError, RecursionError)
SKIPPED = prometheus_client.Counter("recoup_runs_skipped", "Listed runs that could not be stored.", ["reason"])

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunCopy:
    """One answer about a run. `tagged`: the accounts in its tags; `has_account_tag`: also if they are no valid ids."""

    id: str
    status: str
    task_identifier: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    tagged: frozenset[UUID]
    has_account_tag: bool
    data: str

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


def read_copies(items: Iterable[types.Run]) -> list[RunCopy]:
    """Items of a list. One that lacks what a row needs is skipped and counted; the others are stored."""
    found = []
    for item in items:
        try:
            found.append(read_copy(item))
        except UNREADABLE as error:
            SKIPPED.labels(type(error).__name__).inc()
            logger.warning("A listed run could not be stored: %s", type(error).__name__)
    return found


def read_copy(item: types.Run) -> RunCopy:
    """Raises one of UNREADABLE for an item without id, status or createdAt."""
    raw: dict[str, Any] = dict(item)
    created_at = parse_timestamp(raw["createdAt"])
    return RunCopy(
        id=raw["id"],
        status=as_text(raw["status"])[:MAX_STATUS],
        task_identifier=as_text(raw.get("taskIdentifier"))[:200],
        created_at=created_at,
        started_at=optional_timestamp(raw.get("startedAt")),
        finished_at=optional_timestamp(raw.get("finishedAt")),
        updated_at=optional_timestamp(raw.get("updatedAt")) or created_at,
        tagged=frozenset(tagged_accounts(item)),
        has_account_tag=bool(account_tags(item)),
        data=data_of(raw),
    )


def optional_timestamp(text: Any) -> datetime | None:
    try:
        return parse_timestamp(text)
    except (TypeError, ValueError):
        return None


def data_of(raw: dict[str, Any]) -> str:
    """The item as JSON text, without what a list never has; over MAX_DATA also without its metadata."""
    item = {key: value for key, value in raw.items() if key not in LEFT_OUT_OF_LISTS}
    text = encode(item)
    if len(text.encode()) > MAX_DATA:
        text = encode({**{key: value for key, value in item.items() if key != "metadata"}, "metadataOmitted": True})
    if len(text.encode()) > MAX_DATA:
        raise ValueError("too large")
    return text


def encode(value: Any) -> str:
    """orjson refuses half of a surrogate pair and numbers over 64 bits, which Trigger.dev can send."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value, separators=(",", ":"))


def is_json_object(text: str) -> bool:
    """False for a damaged row, which must not break the list that it is in."""
    for loads in (orjson.loads, partial(json.loads, parse_constant=refuse)):  # orjson refuses half of a surrogate pair
        try:
            if text[:1] == "{" and text[-1:] == "}" and "id" in loads(text):
                return True
        except (TypeError, ValueError, RecursionError):
            continue
    SKIPPED.labels("damaged").inc()
    return False


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
