"""Calls Trigger.dev through the gateway, without an API request."""

from functools import partial
from typing import Any

from tasks.gateway import upstream
from tasks.trigger import errors


def call_trigger(name: str = "list_runs") -> str:
    """Makes one call and returns `answered`, or the name of the error class."""
    calls: dict[str, Any] = {
        "list_runs": partial(upstream.client().list_runs, tag="account:x", limit=1),
        "retrieve_run": partial(upstream.client().retrieve_run, "run_x"),
        "retrieve_schedule": partial(upstream.client().retrieve_schedule, "x"),
    }
    try:
        calls[name](deadline=upstream.deadline_from_now())
    except errors.TriggerError as error:
        return type(error).__name__
    return "answered"
