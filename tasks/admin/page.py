"""What the page of a task shows above and below its form: its state, runs, next times, timeline and changes."""

import json
import time
from datetime import timedelta
from typing import Any

from django.contrib.admin.utils import quote
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import mark_safe

from accounts.admin.base import newest_events
from tasks.admin import timeline
from tasks.admin.state import Level, duration, state_of, until
from tasks.cron import zones
from tasks.models import Run, Task
from tasks.runs import single
from tasks.runs.copies import FAILED, is_json_object
from tasks.runs.reading import upcoming_times

MAX_RUNS, MAX_LISTED, MAX_MARKS = 20, 50, 500
MAX_ERROR = 500  # characters
# Seconds that the page waits for the error of a failed run.
ERROR_WITHIN = 1.0
LEVELS = {Level.OK: "success", Level.NOTE: "info", Level.WARNING: "warning", Level.ERROR: "danger"}


def page_of(task: Task) -> dict[str, Any]:
    """What the templates show above and below the form."""
    now = timezone.now()
    since = now - timedelta(days=timeline.DAYS)
    recent = list(task.runs.filter(created_at__gte=since).only("id", "status", "created_at")[:MAX_MARKS])
    runs = list(task.runs.all()[:MAX_RUNS])
    missed = list(task.missed_runs.filter(expected_at__gte=since)[:MAX_MARKS])
    failures = list(task.sync_failures.filter(at__gte=since)[:MAX_MARKS])
    events = newest_events(Q(target_kind="task", target_id=str(task.pk)))
    upcoming = upcoming_times(task, now=now) if task.deleted_at is None else ()
    failed = next((run for run in runs if run.status in FAILED), None)
    newest_failed = failed is not None and failed is next((run for run in runs if run.is_final), None)
    last_error = error_of(failed) if failed is not None and newest_failed else ""
    newest_missed = missed[0] if missed else None
    changes = [event for event, _ in events]
    state = state_of(
        task, runs=runs, missed=newest_missed, events=changes, last_error=last_error, upcoming=upcoming, now=now
    )
    marks = timeline.marks_of(recent, missed, changes, failures)
    return {
        "state": state,
        "state_class": LEVELS[state.level],
        "state_rows": [row_of(run, now=now) for run in runs],
        "timeline": mark_safe(timeline.svg(marks, now=now)),  # noqa: S308  its texts are escaped
        "is_timeline_cut": len(recent) == MAX_MARKS,
        "max_marks": MAX_MARKS,
        "marks": [mark for mark in reversed(marks) if mark.at >= since][:MAX_LISTED],
        "upcoming": [(at, at.astimezone(zones.zone(task.timezone)), until(at, now)) for at in upcoming],
        "events": events,
        "unconfirmed": list(task.run_requests.select_related("requested_by").filter(run_id=None)[:MAX_RUNS]),
        "zone": task.timezone,
        "page_warnings": zones.warnings(task.timezone) if upcoming else [],
    }


def error_of(run: Run) -> str:
    """The message of a failed run: Trigger.dev tells it only for a single run. Empty where it does not answer soon."""
    try:
        found, _ = single.retrieve_for_staff(run.pk, deadline=time.monotonic() + ERROR_WITHIN)
    except single.RunNotFound:
        return ""
    error = found.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:MAX_ERROR] if message else ""


def row_of(run: Run, *, now: Any) -> dict[str, Any]:
    data = json.loads(run.data) if is_json_object(run.data) else {}
    cost, milliseconds = number(data.get("costInCents")), number(data.get("durationMs"))
    css = "danger" if run.status in FAILED else {"COMPLETED": "success"}.get(run.status, "info")
    return {
        "id": run.pk,
        "status": run.status,
        "class": css,
        "created_at": run.created_at,
        "ago": f"{duration(now - run.created_at)} ago",
        "duration": f"{milliseconds / 1000:.0f} s" if milliseconds else "-",
        "cost": f"{cost / 100:.4f} $" if cost is not None else "-",
        "url": reverse("admin:tasks_run_change", args=[quote(run.pk)]),
    }


def number(value: Any) -> float | None:
    """None for what Trigger.dev should not send."""
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None


def link_to(task: Task | None) -> str:
    if task is None:
        return "-"
    return format_html('<a href="{}">{}</a>', reverse("admin:tasks_task_change", args=[task.pk]), task)
