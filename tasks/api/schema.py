"""The OpenAPI schema of the endpoints: summaries, examples, error texts. Parameters and bodies follow from serializers.

Runs are Trigger.dev's, so their schema is written out and not derived.
"""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from accounts.api.schema import ACCOUNT_ERROR_TEXTS
from core.errors import INTERNAL
from core.schema import ErrorTexts, for_methods
from tasks.api import examples
from tasks.api.errors import NO_SUCH_RUN, QUOTA_EXCEEDED, RETRY_AFTER, TRIGGER_UNAVAILABLE
from tasks.api.permissions import TASK_NOT_FOUND
from tasks.api.queries import STATUSES, TaskEventListQuerySerializer
from tasks.api.serializers import (
    MAX_IDEMPOTENCY_KEY,
    CreateContentRunOutputSerializer,
    CreateTaskRequestSerializer,
    DeleteTaskRequestSerializer,
    DeleteTaskResponseSerializer,
    PreviewResponseSerializer,
    StartRunRequestSerializer,
    TaskEventsResponseSerializer,
    TaskRunListResponseSerializer,
    TasksResponseSerializer,
    UpdateTaskRequestSerializer,
)
from tasks.idempotency import DifferentBody
from tasks.runs.run_now import NOT_CONFIRMED

STRING = {"type": "string"}
# Every type by its name: generated clients fail on a text where only `{}` allows it.
ANY_JSON: list[dict[str, Any]] = [
    {"type": "object", "additionalProperties": {}},
    {"type": "array", "items": {}},
    *({"type": name} for name in ("string", "number", "boolean", "null")),
]
NUMBER = {"type": "number"}
NULLABLE_STRING = {"type": ["string", "null"]}
NULLABLE_OBJECT = {"type": ["object", "null"]}
TIMESTAMP = {"type": "string", "format": "date-time"}
NULLABLE_TIMESTAMP = {"type": ["string", "null"], "format": "date-time"}
FAILURE_KEYS = {"message": STRING, "name": STRING, "stackTrace": STRING}
FAILURE = {"type": ["object", "null"], "properties": FAILURE_KEYS}
ATTEMPT = {
    "type": "object",
    "properties": {
        "id": STRING,
        "status": {"type": "string", "enum": ["PENDING", "EXECUTING", "PAUSED", "COMPLETED", "FAILED", "CANCELED"]},
        "createdAt": TIMESTAMP,
        "updatedAt": TIMESTAMP,
        "startedAt": NULLABLE_TIMESTAMP,
        "completedAt": NULLABLE_TIMESTAMP,
        "error": FAILURE,
    },
}
RUN_PROPERTIES: dict[str, Any] = {
    "id": STRING,
    "status": {"type": "string", "enum": list(STATUSES)},
    "taskIdentifier": STRING,
    "idempotencyKey": NULLABLE_STRING,
    "version": STRING,
    "isTest": {"type": "boolean"},
    "createdAt": TIMESTAMP,
    "updatedAt": TIMESTAMP,
    "startedAt": NULLABLE_TIMESTAMP,
    "finishedAt": NULLABLE_TIMESTAMP,
    "delayedUntil": NULLABLE_TIMESTAMP,
    "ttl": {"description": "How long a run may wait before it expires."},
    "expiredAt": NULLABLE_TIMESTAMP,
    "tags": {"type": "array", "items": STRING},
    "metadata": NULLABLE_OBJECT,
    "costInCents": NUMBER,
    "baseCostInCents": NUMBER,
    "durationMs": NUMBER,
    "env": {"type": "object", "properties": {"id": STRING, "name": STRING, "user": NULLABLE_STRING}},
    "depth": {"type": "integer"},
    "batchId": NULLABLE_STRING,
    "triggerFunction": {
        "type": "string",
        "enum": ["trigger", "triggerAndWait", "batchTrigger", "batchTriggerAndWait"],
    },
    "payload": {"description": "What the run was started with; only for a single run."},
    "error": {**FAILURE, "description": "Why the run failed; only for a single run."},
    "attempts": {"type": "array", "items": ATTEMPT},
    "schedule": NULLABLE_OBJECT,
    "task_id": {**NULLABLE_STRING, "format": "uuid", "description": "The task of the run; only in a list."},
    "title": {**NULLABLE_STRING, "description": "The title of its task; only in a list."},
    "relatedRuns": {**NULLABLE_OBJECT, "description": "Runs that the caller may see too; only for a single run."},
}


class TaskRunResponseSchema(OpenApiSerializerExtension):
    target_class = "tasks.api.serializers.TaskRunResponseSerializer"

    def map_serializer(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        content = auto_schema.resolve_serializer(CreateContentRunOutputSerializer(), direction).ref
        output = {
            "description": "What the run returned: any JSON value. Only for a single run that is COMPLETED.",
            "anyOf": [content, *ANY_JSON],
        }
        return {
            "type": "object",
            "description": "A run as Trigger.dev sent it; keys and statuses that are not listed here may appear.",
            "required": ["id", "status", "taskIdentifier", "createdAt", "updatedAt"],
            "properties": {**RUN_PROPERTIES, "output": output},
        }


# --- Errors ----------------------------------------------------------------------------------------------------------

INVALID_SCHEDULE = "schedule is not a valid cron expression. The hour must be from 0 to 23, not 24."
INVALID_BODY = (
    "The body is not a JSON object, or a field is unknown, missing, of the wrong type or refused by Trigger.dev."
)
WRITES = ("POST", "PATCH", "DELETE")
SHARED_ERROR_TEXTS: ErrorTexts = {
    **ACCOUNT_ERROR_TEXTS,
    **for_methods(
        429,
        "Too many requests per minute with one credential or from one address, or too many single runs that are not "
        "cached. `Retry-After` says when to try again.",
        QUOTA_EXCEEDED.format(7),
    ),
    **for_methods(
        500,
        "An error on our side; or Trigger.dev is unavailable and no earlier answer is stored: `Retry-After` says when "
        "to try again.",
        TRIGGER_UNAVAILABLE.format(RETRY_AFTER),
    ),
}
TASK_ERROR_TEXTS: ErrorTexts = {
    **SHARED_ERROR_TEXTS,
    **for_methods(400, INVALID_BODY, INVALID_SCHEDULE, methods=WRITES),
    **for_methods(
        404,
        "No such task, or none that the caller may act for: the two cannot be told apart.",
        TASK_NOT_FOUND,
        methods=("PATCH", "DELETE"),
    ),
    **for_methods(
        402,
        "A limit of the account: how many tasks it may have, or how often a task may run.",
        "This account has 500 tasks, and may have 500. Delete one, or ask for a higher limit.",
        methods=("POST", "PATCH"),
    ),
    ("POST", 409): (
        "The Idempotency-Key was sent with a different body, or its task was deleted.",
        str(DifferentBody.__doc__),
    ),
}
RUN_ERROR_TEXTS: ErrorTexts = {
    **SHARED_ERROR_TEXTS,
    ("GET", 404): ("No such run, or none that the caller may see: the two cannot be told apart.", NO_SUCH_RUN),
    ("POST", 404): TASK_ERROR_TEXTS["PATCH", 404],
    ("POST", 400): (INVALID_BODY, "id is required."),
    ("POST", 500): ("Trigger.dev did not confirm the run, or an error on our side.", NOT_CONFIRMED),
}
EVENT_ERROR_TEXTS: ErrorTexts = {
    **ACCOUNT_ERROR_TEXTS,
    ("GET", 404): TASK_ERROR_TEXTS["PATCH", 404],
}
PREVIEW_ERROR_TEXTS: ErrorTexts = {
    **SHARED_ERROR_TEXTS,
    ("GET", 400): ("A parameter is unknown, or has a value that no task could have.", INVALID_SCHEDULE),
    ("GET", 500): ("An error on our side. It has been logged.", INTERNAL),
}

# --- Operations ------------------------------------------------------------------------------------------------------

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY},
    OpenApiParameter.HEADER,
    description=(
        "Any text. The same request sent again with the same key has no second effect, and the answer has the header "
        "`Idempotent-Replayed: true`. A key belongs to its caller. For a new task it is kept for a day, for a run as "
        "long as runs are."
    ),
)
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="The `ETag` of an earlier answer. If nothing has changed, the answer is an empty 304.",
)


def response_header(name: str, description: str, statuses: list[int]) -> OpenApiParameter:
    return OpenApiParameter(name, OpenApiTypes.STR, OpenApiParameter.HEADER, response=statuses, description=description)


ETAG = response_header("ETag", "Send it as `If-None-Match` to learn whether anything has changed.", [200, 304])
RETRY_AFTER_HEADER = response_header("Retry-After", "When to ask again, in seconds.", [429, 500])
REPLAYED = response_header("Idempotent-Replayed", "`true` where an earlier request had this effect.", [200])
NOT_MODIFIED = OpenApiResponse(
    description="Nothing but `runs_as_of` differs from the answer whose `ETag` was sent as `If-None-Match`."
)
WRITTEN = OpenApiResponse(
    TasksResponseSerializer, description="The task as it is now.", examples=[OpenApiExample("The task", examples.TASKS)]
)

list_tasks = extend_schema(
    operation_id="list_tasks",
    summary="List tasks",
    description=(
        "The caller's own tasks, or those of an account that the caller may act for, newest first: all of them, or "
        "page by page with `limit`."
    ),
    parameters=[IF_NONE_MATCH, ETAG, RETRY_AFTER_HEADER],
    responses={
        304: NOT_MODIFIED,
        200: OpenApiResponse(
            TasksResponseSerializer,
            description="The tasks, newest first; an empty list where there are none.",
            examples=[OpenApiExample("Tasks", examples.TASKS)],
        ),
    },
)
create_task = extend_schema(
    operation_id="create_task",
    summary="Create a task",
    description=(
        "Its schedule is created at Trigger.dev at once, or soon if Trigger.dev is unavailable: see `sync_status`. "
        "The request fails only if Trigger.dev refuses the cron expression or the time zone."
    ),
    request=CreateTaskRequestSerializer,
    examples=[OpenApiExample("A task of the demo's Alice", examples.NEW_TASK, request_only=True)],
    responses={200: WRITTEN},
    parameters=[IDEMPOTENCY_KEY, REPLAYED, RETRY_AFTER_HEADER],
)
update_task = extend_schema(
    operation_id="update_task",
    summary="Update a task",
    description=(
        "Fields that are not sent do not change. `enabled: false` pauses the task; its schedule and its runs remain."
    ),
    request=UpdateTaskRequestSerializer,
    examples=[OpenApiExample("Pause", {"id": examples.TASK_ID, "enabled": False}, request_only=True)],
    responses={200: WRITTEN},
)
delete_task = extend_schema(
    operation_id="delete_task",
    summary="Delete a task",
    description=(
        "Its schedule is deleted too. The id may be in the body or, for proxies that drop the body, in the query."
    ),
    request=DeleteTaskRequestSerializer,
    examples=[OpenApiExample("By its id", {"id": examples.TASK_ID}, request_only=True)],
    responses={
        200: OpenApiResponse(
            DeleteTaskResponseSerializer,
            description="The task is deleted.",
            examples=[OpenApiExample("Deleted", {"status": "success"})],
        )
    },
)
list_or_retrieve_runs = extend_schema(
    operation_id="list_or_retrieve_runs",
    summary="List runs, or retrieve one run",
    description=(
        "The newest runs of the caller or of another account, or a page of its history; with `runId` a single run with "
        "its output. While that run is not finished, `Retry-After` says when to ask again; `wait` saves asking."
    ),
    responses={
        304: NOT_MODIFIED,
        200: OpenApiResponse(
            TaskRunListResponseSerializer,
            description="The runs, newest first; with `runId` exactly one.",
            examples=[
                OpenApiExample("One run by runId", examples.FINISHED_RUN),
                OpenApiExample("A list while Trigger.dev is unavailable", examples.RUNS),
            ],
        ),
    },
    parameters=[IF_NONE_MATCH, ETAG, RETRY_AFTER_HEADER],
)
start_run = extend_schema(
    operation_id="start_run",
    summary="Run a task now",
    description=(
        "Starts one run of the task outside its schedule, also while the task is paused. The run has the tags "
        "`account:<uuid>` and `task:<uuid>`, and is among the task's `recent_runs` from then on."
    ),
    request=StartRunRequestSerializer,
    examples=[OpenApiExample("By the task's id", {"id": examples.TASK_ID}, request_only=True)],
    responses={
        200: OpenApiResponse(
            TaskRunListResponseSerializer,
            description="The run; `stale` when it was started but could not be retrieved yet.",
            examples=[OpenApiExample("The run", examples.STARTED_RUN)],
        )
    },
    parameters=[IDEMPOTENCY_KEY, REPLAYED, RETRY_AFTER_HEADER],
)
list_task_events = extend_schema(
    operation_id="list_task_events",
    parameters=[
        TaskEventListQuerySerializer,
        OpenApiParameter(
            "id",
            OpenApiTypes.UUID,
            required=True,
            description="The task, which may have been deleted.",
            examples=[OpenApiExample("A task of the demo's Alice", examples.TASK_ID)],
        ),
    ],
    summary="List the changes of a task",
    description="Who changed the task, and what, newest first; also after the task was deleted.",
    responses={
        200: OpenApiResponse(
            TaskEventsResponseSerializer,
            description="The changes, newest first.",
            examples=[OpenApiExample("A pause", examples.EVENTS)],
        )
    },
)
preview_schedule = extend_schema(
    operation_id="preview_schedule",
    parameters=[
        OpenApiParameter(
            "schedule",
            {"type": "string"},
            required=True,
            description="Cron, five fields.",
            examples=[OpenApiExample("Weekday mornings", "0 9 * * 1-5")],
        )
    ],
    summary="Preview a schedule",
    description=(
        "The next times of a cron expression in a time zone, and the expression in English. Nothing is written, and "
        "Trigger.dev is not called."
    ),
    responses={
        200: OpenApiResponse(
            PreviewResponseSerializer,
            description="The next times.",
            examples=[OpenApiExample("Weekday mornings", examples.PREVIEW)],
        )
    },
)
