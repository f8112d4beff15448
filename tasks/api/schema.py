"""What the schema says of tasks and runs. Runs are Trigger.dev's, so their schema is written out and not derived."""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from tasks.api import examples
from tasks.api.bodies import (
    LONGEST_KEY,
    CreateTaskRequestSerializer,
    DeleteTaskRequestSerializer,
    StartRunRequestSerializer,
    UpdateTaskRequestSerializer,
)
from tasks.api.filters import DEFAULT_COUNT, DEFAULT_LIMIT, HIGHEST_COUNT, HIGHEST_LIMIT, LONGEST_WAIT
from tasks.api.serializers import (
    CreateContentRunOutputSerializer,
    DeleteTaskResponseSerializer,
    PreviewResponseSerializer,
    TaskRunListResponseSerializer,
    TasksResponseSerializer,
)

STATUSES = [
    "PENDING_VERSION",
    "DELAYED",
    "QUEUED",
    "EXECUTING",
    "REATTEMPTING",
    "FROZEN",
    "COMPLETED",
    "CANCELED",
    "FAILED",
    "CRASHED",
    "INTERRUPTED",
    "SYSTEM_FAILURE",
    "EXPIRED",
    "TIMED_OUT",
    "WAITING_FOR_DEPLOY",
]
STRING = {"type": "string"}
NUMBER = {"type": "number"}
NULLABLE_STRING = {"type": ["string", "null"]}
NULLABLE_OBJECT = {"type": ["object", "null"]}
MOMENT = {"type": "string", "format": "date-time"}
NULLABLE_MOMENT = {"type": ["string", "null"], "format": "date-time"}
FAILURE_KEYS = {"message": STRING, "name": STRING, "stackTrace": STRING}
FAILURE = {"type": ["object", "null"], "properties": FAILURE_KEYS}
ATTEMPT = {
    "type": "object",
    "properties": {
        "id": STRING,
        "status": {"type": "string", "enum": ["PENDING", "EXECUTING", "PAUSED", "COMPLETED", "FAILED", "CANCELED"]},
        "createdAt": MOMENT,
        "updatedAt": MOMENT,
        "startedAt": NULLABLE_MOMENT,
        "completedAt": NULLABLE_MOMENT,
        "error": FAILURE,
    },
}
RUN_PROPERTIES: dict[str, Any] = {
    "id": STRING,
    "status": {"type": "string", "enum": STATUSES},
    "taskIdentifier": STRING,
    "idempotencyKey": NULLABLE_STRING,
    "version": STRING,
    "isTest": {"type": "boolean"},
    "createdAt": MOMENT,
    "updatedAt": MOMENT,
    "startedAt": NULLABLE_MOMENT,
    "finishedAt": NULLABLE_MOMENT,
    "delayedUntil": NULLABLE_MOMENT,
    "ttl": {"description": "How long a run may wait before it expires."},
    "expiredAt": NULLABLE_MOMENT,
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
    "relatedRuns": {**NULLABLE_OBJECT, "description": "Runs that the caller may see too; only for a single run."},
}


class TaskRunResponseSchema(OpenApiSerializerExtension):
    target_class = "tasks.api.serializers.TaskRunResponseSerializer"

    def map_serializer(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        content = auto_schema.resolve_serializer(CreateContentRunOutputSerializer(), direction).ref
        output = {
            "description": "What the run returned, any JSON value; only for a single run that is COMPLETED.",
            "anyOf": [content, {}],
        }
        return {
            "type": "object",
            "description": "A run as Trigger.dev sent it; keys and statuses that are not listed here may appear.",
            "required": ["id", "status", "taskIdentifier", "createdAt", "updatedAt"],
            "properties": {**RUN_PROPERTIES, "output": output},
        }


IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY},
    OpenApiParameter.HEADER,
    description=(
        "Any text of yours. The same request sent again with it does nothing twice, and its answer has the header "
        "`Idempotent-Replayed: true`. It counts for its caller only; for a new task for a day, for a run with its task."
    ),
)


IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="The `ETag` of an earlier answer. While it would be the same again, the answer is an empty 304.",
)
NOT_MODIFIED = OpenApiResponse(
    description="Nothing but `runs_as_of` differs from the answer whose `ETag` was sent as `If-None-Match`."
)


list_tasks = extend_schema(
    operation_id="list_tasks",
    summary="The tasks of an account",
    description=(
        "The caller's own tasks, or those of an account that the caller may act for, newest first: all of them, or "
        "with `limit` page by page."
    ),
    parameters=[
        OpenApiParameter(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": HIGHEST_LIMIT},
            description="How many tasks at most; all unless given.",
        ),
        OpenApiParameter(
            "cursor",
            OpenApiTypes.STR,
            description="The `next_cursor` of the page before this one.",
        ),
        IF_NONE_MATCH,
    ],
    responses={
        304: NOT_MODIFIED,
        200: OpenApiResponse(
            TasksResponseSerializer,
            description="The tasks, newest first; none is an empty list.",
            examples=[OpenApiExample("Tasks", examples.TASKS)],
        ),
    },
)
_WRITTEN = OpenApiResponse(
    TasksResponseSerializer, description="The task as it is now.", examples=[OpenApiExample("The task", examples.TASKS)]
)
create_task = extend_schema(
    operation_id="create_task",
    summary="Make a task",
    description=(
        "Its schedule is made at Trigger.dev at once or, when that does not answer, soon: `sync_status` tells. "
        "Only a cron or a zone that Trigger.dev refuses makes this fail."
    ),
    request=CreateTaskRequestSerializer,
    responses={200: _WRITTEN},
    filters=False,
    parameters=[IDEMPOTENCY_KEY],
)
update_task = extend_schema(
    operation_id="update_task",
    summary="Change a task",
    description="What is not sent stays as it is. `enabled: false` pauses it; its schedule and its runs stay.",
    request=UpdateTaskRequestSerializer,
    responses={200: _WRITTEN},
    filters=False,
)
delete_task = extend_schema(
    operation_id="delete_task",
    summary="Delete a task",
    description="Its schedule is deleted too. The id may be in the body or, for proxies that drop it, in the query.",
    request=DeleteTaskRequestSerializer,
    responses={
        200: OpenApiResponse(
            DeleteTaskResponseSerializer,
            description="It is deleted.",
            examples=[OpenApiExample("Deleted", {"status": "success"})],
        )
    },
    filters=False,
    parameters=[
        OpenApiParameter("id", OpenApiTypes.UUID, description="The task, where the body does not name it."),
        OpenApiParameter("account_id", OpenApiTypes.UUID, description="Whose task it is."),
    ],
)
list_or_retrieve_runs = extend_schema(
    operation_id="list_or_retrieve_runs",
    summary="The runs of an account, or one run",
    description=(
        "The newest runs of the caller or of another account; with `runId` that run alone, with its output. "
        "While that one is not finished, `Retry-After` says when it is worth asking again; `wait` saves asking."
    ),
    responses={
        304: NOT_MODIFIED,
        200: OpenApiResponse(
            TaskRunListResponseSerializer,
            description="The runs, newest first; with `runId` exactly one.",
            examples=[
                OpenApiExample("One run by runId", examples.FINISHED_RUN),
                OpenApiExample("A list while Trigger.dev is away", examples.RUNS),
            ],
        ),
    },
    parameters=[
        OpenApiParameter("runId", OpenApiTypes.STR, description="Only this run."),
        OpenApiParameter(
            "limit",
            {"type": "integer", "default": DEFAULT_LIMIT, "minimum": 1, "maximum": HIGHEST_LIMIT},
            description="How many runs at most; without a meaning beside `runId`.",
        ),
        OpenApiParameter(
            "account_id", OpenApiTypes.UUID, description="The runs of this account, which the caller may act for."
        ),
        OpenApiParameter(
            "wait",
            {"type": "integer", "minimum": 0, "maximum": LONGEST_WAIT},
            description=(
                "With `runId`: seconds, 25 at most, to wait until the run has another status or is finished. With "
                "`If-None-Match` what has changed since is answered at once, and so is everything while too many wait."
            ),
        ),
        IF_NONE_MATCH,
    ],
)
start_run = extend_schema(
    operation_id="start_run",
    summary="Run a task now",
    description=(
        "Starts one run of the task, outside its schedule, also while the task is paused. It is tagged "
        "`account:<uuid>` and `task:<uuid>`, and is among the task's `recent_runs` from then on."
    ),
    request=StartRunRequestSerializer,
    responses={
        200: OpenApiResponse(
            TaskRunListResponseSerializer,
            description="The run; `stale` when it was started and could not be looked at yet.",
            examples=[OpenApiExample("The run", examples.STARTED_RUN)],
        )
    },
    parameters=[IDEMPOTENCY_KEY],
)
preview_schedule = extend_schema(
    operation_id="preview_schedule",
    summary="When a schedule would run",
    description="The next times of a cron and a time zone, and the cron in words. Nothing is written, nobody is asked.",
    responses={
        200: OpenApiResponse(
            PreviewResponseSerializer,
            description="The next times.",
            examples=[OpenApiExample("Weekday mornings", examples.PREVIEW)],
        )
    },
    parameters=[
        OpenApiParameter("schedule", OpenApiTypes.STR, required=True, description="Cron, five fields."),
        OpenApiParameter("timezone", OpenApiTypes.STR, description="The IANA zone it is read in; UTC unless given."),
        OpenApiParameter(
            "count",
            {"type": "integer", "default": DEFAULT_COUNT, "minimum": 1, "maximum": HIGHEST_COUNT},
            description="How many times.",
        ),
    ],
)
