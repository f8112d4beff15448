"""The query strings of the endpoints. Each is validated as a whole, and described in the schema by its serializer."""

import re

from django.http import QueryDict
from rest_framework.exceptions import ValidationError

from core.pagination import CursorField
from core.serializers import (
    InvalidField,
    QueryBooleanField,
    QueryChoicesField,
    QueryIntegerField,
    QuerySerializer,
    QueryTextField,
    QueryTimestampField,
    UUIDField,
)
from tasks.api.fields import CronField, TimeZoneField
from tasks.trigger.responses import is_id

# Tasks per page, and runs per list; Trigger.dev lists at most 100 runs.
MAX_TASKS = 100
DEFAULT_RUNS, MAX_RUNS = 20, 100
# Parameters of GET /api/tasks/runs that make the answer a page of the history, with a `next_cursor`.
HISTORY = frozenset(("task_id", "status", "created_after", "created_before", "cursor"))
DEFAULT_EVENTS, MAX_EVENTS = 50, 100
# Seconds that a long-polling request may wait.
MAX_WAIT = 25
# Times in a preview.
DEFAULT_COUNT, MAX_COUNT = 10, 100
# Of a run. The last three are not in the published list, and Trigger.dev sends them.
STATUSES = (
    *("PENDING_VERSION", "DELAYED", "QUEUED", "EXECUTING", "REATTEMPTING", "FROZEN", "COMPLETED", "CANCELED"),
    *("FAILED", "CRASHED", "INTERRUPTED", "SYSTEM_FAILURE", "EXPIRED", "TIMED_OUT", "WAITING_FOR_DEPLOY"),
)


def parse_run_id(text: str) -> str | None:
    return text if is_id(text) else None


class TaskListQuerySerializer(QuerySerializer):
    id = UUIDField(required=False, help_text="Only the task with this id.")
    account_id = UUIDField(
        required=False, help_text="The tasks of this account, which the caller must be able to act for."
    )
    artist_account_id = UUIDField(required=False, help_text="Only tasks for this artist.")
    enabled = QueryBooleanField(required=False, help_text="Only running, or only paused tasks.")
    limit = QueryIntegerField(
        minimum=1, maximum=MAX_TASKS, required=False, help_text="The maximum number of tasks; all by default."
    )
    cursor = CursorField(required=False, help_text="The `next_cursor` of the previous page.")


class TaskRunListQuerySerializer(QuerySerializer):
    runId = QueryTextField(required=False, help_text="Only this run.")
    limit = QueryIntegerField(
        minimum=1,
        maximum=MAX_RUNS,
        default=DEFAULT_RUNS,
        help_text="The maximum number of runs; ignored with `runId`.",
    )
    account_id = UUIDField(
        required=False, help_text="The runs of this account, which the caller must be able to act for."
    )
    task_id = UUIDField(required=False, help_text="Only runs of this task.")
    status = QueryChoicesField(
        choices=STATUSES, required=False, help_text="Only runs with one of these statuses, with commas between them."
    )
    created_after = QueryTimestampField(required=False, help_text="Only runs created at this time or later.")
    created_before = QueryTimestampField(required=False, help_text="Only runs created before this time.")
    cursor = CursorField(parse_id=parse_run_id, required=False, help_text="The `next_cursor` of the previous page.")
    wait = QueryIntegerField(
        minimum=0,
        maximum=MAX_WAIT,
        required=False,
        help_text=(
            "With `runId`: long polling. The answer comes when the run has another status or is finished, at the "
            "latest after this many seconds. With `If-None-Match`, a change since then is answered at once. While "
            "too many requests wait, every request is answered at once."
        ),
    )

    def parameters(self, query: QueryDict) -> dict[str, str]:
        """A `limit` beside a `runId` is ignored, even an invalid one."""
        if "runId" in query:
            query = query.copy()
            query.pop("limit", None)
        given = super().parameters(query)
        history = sorted(given.keys() & HISTORY)
        if history and "runId" in given:
            raise ValidationError(f"{history[0]} is for a list of runs. Leave it or runId out.")
        if "wait" in given and "runId" not in given:
            raise ValidationError("wait is for a single run. Give its runId too, or leave wait out.")
        return given


class DeleteTaskQuerySerializer(QuerySerializer):
    """Some proxies drop the body of a DELETE, so the query may name the task instead."""

    id = UUIDField(required=False, help_text="The task, where the body does not name it.")
    account_id = UUIDField(required=False, help_text="The account that owns the task.")

    def invalid(self, name: str, problem: str) -> ValidationError:
        return InvalidField(f"{name} {problem}", [name])


def parse_event_id(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else None


class TaskEventListQuerySerializer(QuerySerializer):
    id = UUIDField(help_text="The task, which may have been deleted.")
    account_id = UUIDField(required=False, help_text="The account that owns the task.")
    limit = QueryIntegerField(
        minimum=1, maximum=MAX_EVENTS, default=DEFAULT_EVENTS, help_text="The maximum number of events."
    )
    cursor = CursorField(parse_id=parse_event_id, required=False, help_text="The `next_cursor` of the previous page.")


class PreviewQuerySerializer(QuerySerializer):
    """Validates like the body of a new task, so that a preview and a create agree."""

    schedule = CronField(min_length=None, allow_blank=True, help_text="Cron, five fields.")
    timezone = TimeZoneField(
        required=False, allow_blank=True, help_text="The IANA time zone of the cron; UTC by default."
    )
    count = QueryIntegerField(minimum=1, maximum=MAX_COUNT, default=DEFAULT_COUNT, help_text="The number of times.")

    def invalid(self, name: str, problem: str) -> ValidationError:
        return InvalidField(f"{name} {problem}", [name])
