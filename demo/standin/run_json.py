"""Runs as JSON of Trigger.dev: statuses, flags, keys and their order."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from demo.standin.state import StandinRun, State

API_VERSION = "2025-07-16"
FLAGS = ("isQueued", "isExecuting", "isCompleted", "isFailed", "isSuccess", "isCancelled", "isWaiting")
CENTS_PER_SECOND = 0.00338
CENTS_PER_RUN = 0.0025


@dataclass(frozen=True)
class Status:
    """How a stored status appears without and with the version header, and which flags are true."""

    shown: str
    versioned: str
    flags: tuple[str, ...]
    started: bool = True
    finished: bool = True


QUEUED, EXECUTING = ("isQueued",), ("isExecuting",)
FAILED = ("isCompleted", "isFailed")
STATUSES: Mapping[str, Status] = {
    "PENDING": Status("QUEUED", "QUEUED", QUEUED, started=False, finished=False),
    "DEQUEUED": Status("EXECUTING", "DEQUEUED", EXECUTING, started=False, finished=False),
    "EXECUTING": Status("EXECUTING", "EXECUTING", EXECUTING, finished=False),
    "RETRYING_AFTER_FAILURE": Status("REATTEMPTING", "EXECUTING", EXECUTING, finished=False),
    "WAITING_TO_RESUME": Status("FROZEN", "WAITING", EXECUTING, finished=False),
    "PAUSED": Status("FROZEN", "WAITING", EXECUTING, finished=False),
    "COMPLETED_SUCCESSFULLY": Status("COMPLETED", "COMPLETED", ("isCompleted", "isSuccess")),
    "COMPLETED_WITH_ERRORS": Status("FAILED", "FAILED", FAILED),
    "CANCELED": Status("CANCELED", "CANCELED", ("isCompleted", "isFailed", "isCancelled")),
    "CRASHED": Status("CRASHED", "CRASHED", FAILED),
    "SYSTEM_FAILURE": Status("SYSTEM_FAILURE", "SYSTEM_FAILURE", FAILED),
    "INTERRUPTED": Status("INTERRUPTED", "FAILED", FAILED),
    "DELAYED": Status("DELAYED", "DELAYED", QUEUED, started=False, finished=False),
    "PENDING_VERSION": Status("PENDING_VERSION", "PENDING_VERSION", QUEUED, started=False, finished=False),
    "WAITING_FOR_DEPLOY": Status("WAITING_FOR_DEPLOY", "PENDING_VERSION", QUEUED, started=False, finished=False),
    "EXPIRED": Status("EXPIRED", "EXPIRED", (), started=False),
    "TIMED_OUT": Status("TIMED_OUT", "TIMED_OUT", ()),
}
WAITING_VERSIONED = ("WAITING_TO_RESUME", "PAUSED")
# The stored statuses that each accepted value of filter[status] matches. The status in the JSON does not matter.
STORED_BY_FILTER: Mapping[str, tuple[str, ...]] = {
    **{stored: (stored,) for stored in ("DELAYED", "PENDING_VERSION", "WAITING_FOR_DEPLOY", "DEQUEUED", "EXECUTING")},
    **{
        stored: (stored,) for stored in ("CANCELED", "CRASHED", "SYSTEM_FAILURE", "INTERRUPTED", "EXPIRED", "TIMED_OUT")
    },
    "QUEUED": ("PENDING",),
    "WAITING": ("WAITING_TO_RESUME",),
    "FROZEN": WAITING_VERSIONED,
    "REATTEMPTING": ("RETRYING_AFTER_FAILURE",),
    "COMPLETED": ("COMPLETED_SUCCESSFULLY",),
    "FAILED": ("COMPLETED_WITH_ERRORS",),
}


def stored_status(run: StandinRun, *, now: float) -> str:
    """Trigger.dev's internal status of the run at `now` (epoch seconds)."""
    if run.stuck_as:
        return run.stuck_as
    return history(run)[version_at(run, now=now)][1]


def has_failed(run: StandinRun, *, now: float) -> bool:
    return "isFailed" in STATUSES[stored_status(run, now=now)].flags


def history(run: StandinRun) -> list[tuple[float, str]]:
    """Each stored status with when it began, in seconds after `created`. Not for a run that is stuck."""
    pauses = [pause for pause in run.pauses if run.starts_after < pause < run.ends_after]
    changes = [(pause, ("WAITING_TO_RESUME", "EXECUTING")[number % 2]) for number, pause in enumerate(pauses)]
    started = [(run.starts_after, "EXECUTING")] if run.starts_after < run.ends_after else []
    return [(-math.inf, "PENDING"), *started, *changes, (run.ends_after, run.ends_as)]


def version_at(run: StandinRun, *, now: float) -> int:
    """The index in `history`."""
    return sum(begins <= now - run.created for begins, _ in history(run)) - 1


def list_item(run: StandinRun, environment: Mapping[str, str], *, now: float, versioned: bool) -> dict[str, Any]:
    """A list item: without payload, output, error and schedule. The idempotency key is the stored hash."""
    status, timestamps = status_and_timestamps(run, now=now)
    shown = {
        "id": run.id,
        "status": status.versioned if versioned else status.shown,
        "taskIdentifier": run.task,
        "idempotencyKey": run.idempotency_key and hash_idempotency_key(run.idempotency_key),
        "version": "20261120.1" if status.started else None,
        **timestamps,
        "ttl": run.ttl,
        "isTest": run.is_test,
        "env": dict(environment),
        "tags": sorted(run.tags),
        **costs(run, status),
        "depth": 1 if run.parent_id else 0,
        "metadata": run.metadata,
        "taskKind": run.kind,
        "region": "main",
        **flags(run, status, now=now, versioned=versioned),
    }
    return {key: value for key, value in shown.items() if value is not None}


def common_fields(run: StandinRun, *, now: float, versioned: bool) -> dict[str, Any]:
    """The fields that a retrieved run and its related runs have in common."""
    status, timestamps = status_and_timestamps(run, now=now)
    shown = {
        "id": run.id,
        "taskIdentifier": run.task,
        "idempotencyKey": run.idempotency_key,
        "version": "20261120.1" if status.started else None,
        "status": status.versioned if versioned else status.shown,
        **timestamps,
        "ttl": run.ttl,
        **costs(run, status),
        "isTest": run.is_test,
        "depth": 1 if run.parent_id else 0,
        "tags": sorted(run.tags),
        **flags(run, status, now=now, versioned=versioned),
        "triggerFunction": run.trigger_function,
        "batchId": run.batch_id,
        "metadata": run.metadata,
        "region": "main",
    }
    return {key: value for key, value in shown.items() if value is not None}


def run_detail(run: StandinRun, state: State, *, versioned: bool) -> dict[str, Any]:
    now = state.now
    body = common_fields(run, now=now, versioned=versioned)
    stored = stored_status(run, now=now)
    if run.payload is not None:
        body["payload"] = run.payload
    if run.presigned_payload:
        body["payloadPresignedUrl"] = run.presigned_payload
    if run.has_output and stored == "COMPLETED_SUCCESSFULLY":
        body["output"] = run.output
    if run.presigned_output and stored == "COMPLETED_SUCCESSFULLY":
        body["outputPresignedUrl"] = run.presigned_output
    if run.schedule is not None:
        body["schedule"] = run.schedule
    if run.error is not None and STATUSES[stored].finished and stored != "COMPLETED_SUCCESSFULLY":
        body["error"] = run.error
    related: dict[str, Any] = {}
    for role, run_id in (("root", run.root_id), ("parent", run.parent_id)):
        relative = state.run(run_id) if run_id else None
        if relative is not None:
            related[role] = common_fields(relative, now=now, versioned=versioned)
    related["children"] = [common_fields(child, now=now, versioned=versioned) for child in state.children(run.id)]
    for child in related["children"] if state.nests_related else ():
        nested = [common_fields(other, now=now, versioned=versioned) for other in state.children(child["id"])]
        child["relatedRuns"] = {"children": nested}
    return {**body, "attemptCount": int(STATUSES[stored].started), "attempts": [], "relatedRuns": related}


def status_and_timestamps(run: StandinRun, *, now: float) -> tuple[Status, dict[str, str | None]]:
    stored = stored_status(run, now=now)
    status = STATUSES[stored]
    if run.starts_after >= run.ends_after:  # for example canceled while it was queued
        status = replace(status, started=False)
    reached = run.created + (run.ends_after if status.finished else run.starts_after if status.started else 0)
    if run.pauses and not run.stuck_as:
        reached = run.created + max(0.0, history(run)[version_at(run, now=now)][0])
    return status, {
        "createdAt": iso_timestamp(run.created),
        "startedAt": iso_timestamp(run.created + run.starts_after) if status.started else None,
        "updatedAt": iso_timestamp(reached),
        "finishedAt": iso_timestamp(run.created + run.ends_after) if status.finished else None,
        "expiredAt": iso_timestamp(run.created + run.ends_after) if stored == "EXPIRED" else None,
    }


def costs(run: StandinRun, status: Status) -> dict[str, float]:
    seconds = run.ends_after - run.starts_after if status.started and status.finished else 0
    base = CENTS_PER_RUN if status.started else 0
    return {
        "costInCents": round(seconds * CENTS_PER_SECOND, 4),
        "baseCostInCents": base,
        "durationMs": round(seconds * 1000),
    }


def flags(run: StandinRun, status: Status, *, now: float, versioned: bool) -> dict[str, bool]:
    true = status.flags
    if versioned and stored_status(run, now=now) in WAITING_VERSIONED:
        true = ("isWaiting",)
    return {flag: flag in true for flag in FLAGS}


def hash_idempotency_key(idempotency_key: str) -> str:
    return hashlib.sha256(idempotency_key.encode()).hexdigest()


def iso_timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
