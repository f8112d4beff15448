"""The bodies of requests and responses. Query strings are in `tasks.api.queries`.

Runs are passed through as Trigger.dev sent them; their response fields are documentation only.
"""

from typing import Any

from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from accounts.models import Event
from core.errors import MESSAGE_HELP, FailureSerializer
from core.serializers import BodySerializer, BooleanField, TextField, TimestampField, UUIDField
from tasks.api.fields import CronField, TimeZoneField
from tasks.api.queries import HISTORY
from tasks.limits import MAX_PROMPT, MAX_TITLE, PlanLimit
from tasks.models import SyncStatus
from tasks.runs.due import RunsStatus

# Characters. Not in the schema: the published one has no bounds.
MAX_MODEL = 200
MAX_IDEMPOTENCY_KEY = 255

# --- Bodies of requests ----------------------------------------------------------------------------------------------


class CreateTaskRequestSerializer(BodySerializer):
    """A new task. Other fields than these are refused."""

    title = TextField(max_characters=MAX_TITLE, help_text=f"At most {MAX_TITLE} characters.")
    prompt = TextField(
        max_characters=MAX_PROMPT, is_long=True, help_text=f"What a run does; at most {MAX_PROMPT} characters."
    )
    schedule = CronField(help_text="Cron: minute, hour, day of month, month, weekday.")
    artist_account_id = UUIDField(help_text="An artist that the account works with.")
    account_id = UUIDField(required=False, help_text="The account that will own the task; the caller by default.")
    model = TextField(max_characters=MAX_MODEL, required=False, help_text="The AI model that runs the prompt.")
    enabled = BooleanField(required=False, allow_null=True, help_text="False creates a paused task.")
    timezone = TimeZoneField(required=False, help_text="The IANA time zone of the cron; UTC by default.")


class UpdateTaskRequestSerializer(BodySerializer):
    """The task, and the fields that change."""

    id = UUIDField()
    title = TextField(max_characters=MAX_TITLE, required=False)
    prompt = TextField(max_characters=MAX_PROMPT, is_long=True, required=False)
    schedule = CronField(required=False)
    account_id = UUIDField(required=False, help_text="The account that owns the task. It never changes.")
    artist_account_id = UUIDField(required=False)
    enabled = BooleanField(required=False, allow_null=True, help_text="False pauses the task.")
    model = TextField(
        max_characters=MAX_MODEL, required=False, allow_null=True, help_text="Null restores the default model."
    )
    timezone = TimeZoneField(required=False)


class DeleteTaskRequestSerializer(BodySerializer):
    """The task to delete."""

    id = UUIDField()
    account_id = UUIDField(required=False, help_text="The account that owns the task.")


class StartRunRequestSerializer(BodySerializer):
    """The task to run now."""

    id = UUIDField(help_text="The task.")
    account_id = UUIDField(required=False, help_text="The account that owns the task.")


def idempotency_key_of(request: Request) -> str:
    """The Idempotency-Key header, or "". An empty one is a 400: the client believes that it is protected."""
    if "Idempotency-Key" not in request.headers:
        return ""
    key: str = request.headers["Idempotency-Key"].strip()
    if not key:
        raise ValidationError("Idempotency-Key is empty. Give it a value or leave it out.")
    if len(key) > MAX_IDEMPOTENCY_KEY:
        raise ValidationError(f"Idempotency-Key must have at most {MAX_IDEMPOTENCY_KEY} characters, not {len(key)}.")
    if not key.isprintable():
        raise ValidationError("Idempotency-Key must contain printable characters only.")
    return key


# --- Bodies of responses ---------------------------------------------------------------------------------------------


class TaskRunsErrorResponseSerializer(FailureSerializer):
    """What was wrong with a request to /api/tasks/runs."""


@extend_schema_field({"type": "number"})
class NumberField(serializers.FloatField):
    """Any JSON number; drf-spectacular would narrow it to a double."""


@extend_schema_field({"type": "object", "additionalProperties": {}})
class ValuesField(serializers.DictField):
    """Values by column."""


class TaskRunResponseSerializer(serializers.Serializer[Any]):
    """A run, untouched; `tasks.api.schema` describes it."""

    def to_representation(self, instance: Any) -> Any:
        return instance


class CreateContentRunAudioSerializer(serializers.Serializer[Any]):
    songTitle = serializers.CharField(required=False)
    songFilename = serializers.CharField(required=False)
    startSeconds = NumberField(required=False)
    durationSeconds = NumberField(required=False)
    clipLyrics = serializers.CharField(required=False, allow_null=True)
    clipMood = serializers.CharField(required=False, allow_null=True)


class CreateContentRunOutputSerializer(serializers.Serializer[Any]):
    videoSourceUrl = serializers.URLField()
    imageUrl = serializers.URLField()
    captionText = serializers.CharField()
    template = serializers.CharField()
    lipsync = serializers.BooleanField(required=False)
    audio = CreateContentRunAudioSerializer(required=False)


class TaskSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="task.id")
    title = serializers.CharField(source="task.title")
    prompt = serializers.CharField(source="task.prompt")
    schedule = serializers.CharField(source="task.schedule", help_text="Cron, five fields, read in `timezone`.")
    timezone = serializers.CharField(source="task.timezone", help_text="An IANA time zone.")
    account_id = serializers.UUIDField(source="task.account_id")
    artist_account_id = serializers.UUIDField(source="task.artist_account_id")
    artist_name = serializers.CharField(source="task.artist_name")
    enabled = serializers.BooleanField(
        source="task.enabled", allow_null=True, help_text="False when the task is paused; null counts as true."
    )
    model = serializers.CharField(
        source="task.model",
        allow_null=True,
        min_length=1,
        help_text="The AI model that runs the prompt; null for the default.",
    )
    owner_email = serializers.CharField(
        source="task.owner_email", allow_null=True, help_text="The owner's primary address; null when there is none."
    )
    created_at = TimestampField(source="task.created_at")
    updated_at = TimestampField(source="task.updated_at")
    trigger_schedule_id = serializers.CharField(
        source="task.trigger_schedule_id", allow_null=True, help_text="Null until Trigger.dev has a schedule."
    )
    sync_status = serializers.ChoiceField(
        source="task.sync_status",
        choices=SyncStatus.choices,
        help_text="Whether Trigger.dev's schedule is what the task says: in sync, not yet, or refused.",
    )
    recent_runs = serializers.ListField(
        child=TaskRunResponseSerializer(), help_text="The newest five runs, as Trigger.dev sent them."
    )
    runs_status = serializers.ChoiceField(
        choices=[status.value for status in RunsStatus],
        help_text=(
            "Whether `recent_runs` is what Trigger.dev says now (fresh), said at `runs_as_of` (stale), "
            "or unknown (unavailable)."
        ),
    )
    runs_as_of = TimestampField(allow_null=True, help_text="When Trigger.dev said so; null when it could not be asked.")
    trigger_lookup_failed = serializers.BooleanField(
        source="is_unavailable", help_text="True only when `runs_status` is `unavailable`."
    )
    upcoming = serializers.ListField(
        child=TimestampField(), help_text="The next times at which the task runs; none while it is paused."
    )

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """All are always sent, but the published schema requires none, and the schema says what is published."""
        fields: dict[str, serializers.Field[Any, Any, Any, Any]] = super().get_fields()
        for field in fields.values():
            field.required = False
        return fields


@extend_schema_serializer(many=False)
class TasksResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success", "error"])
    tasks = TaskSerializer(many=True)
    next_cursor = serializers.CharField(
        required=False, allow_null=True, help_text="With `limit`: the `cursor` of the next page; null on the last one."
    )
    warnings = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="After a write: what the owner may not expect, for example that a time zone has no summer time.",
    )
    error = serializers.CharField(required=False)


class PlanLimitSerializer(serializers.Serializer[Any]):
    """A limit of the account. The numbers belong to the limit that is named."""

    status = serializers.ChoiceField(choices=["error"])
    error = serializers.ChoiceField(choices=["plan_limit"])
    limit = serializers.ChoiceField(choices=["task_count", "min_cadence_minutes"])
    message = serializers.CharField(help_text=MESSAGE_HELP)
    task_limit = serializers.IntegerField(required=False)
    current_task_count = serializers.IntegerField(required=False)
    min_cadence_minutes = serializers.IntegerField(required=False)
    current_cadence_minutes = serializers.IntegerField(required=False)

    @staticmethod
    def body(status: int, message: str, path: Any) -> dict[str, Any]:
        """An example."""
        return plan_limit_body(PlanLimit("task_count", message, task_limit=500, current_task_count=500))


def plan_limit_body(limit: PlanLimit) -> dict[str, Any]:
    return {"status": "error", "error": "plan_limit", "limit": limit.limit, **limit.numbers, "message": str(limit)}


class DeleteTaskResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success", "error"])
    error = serializers.CharField(required=False)


@extend_schema_serializer(many=False)
class TaskRunListResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success"])
    runs = TaskRunResponseSerializer(many=True)
    runs_status = serializers.ChoiceField(choices=[status.value for status in RunsStatus], required=False)
    runs_as_of = TimestampField(allow_null=True, required=False)
    next_cursor = serializers.CharField(
        required=False,
        allow_null=True,
        help_text=(f"With {', '.join(sorted(HISTORY))}: the `cursor` of the next page; null on the last one."),
    )


class TaskEventSerializer(serializers.ModelSerializer[Event]):
    """A change of a task, without names and notes of staff."""

    at = TimestampField()
    actor_kind = serializers.ChoiceField(choices=Event.ActorKind.choices, help_text="Who made the change.")
    actor_account_id = serializers.SerializerMethodField(help_text="The account that made it; null for others.")
    via = serializers.ChoiceField(choices=Event.Via.choices, help_text="Through what.")
    action = serializers.CharField(help_text="`created`, `updated`, `deleted` or `started_run`.")
    before = ValuesField(help_text="The values that changed, as they were; of a prompt its length and digest.")
    after = ValuesField(help_text="The same values afterwards.")
    reason = serializers.SerializerMethodField(help_text="Why, where a rule of ours made the change.")

    class Meta:
        model = Event
        fields = ("at", "action", "actor_kind", "actor_account_id", "via", "before", "after", "reason")

    @extend_schema_field({"type": ["string", "null"], "format": "uuid"})
    def get_actor_account_id(self, event: Event) -> str | None:
        return event.actor_id if event.actor_kind == Event.ActorKind.ACCOUNT else None

    @extend_schema_field({"type": "string"})
    def get_reason(self, event: Event) -> str:
        return "" if event.actor_kind == Event.ActorKind.STAFF else event.reason


@extend_schema_serializer(many=False)
class TaskEventsResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success"])
    events = TaskEventSerializer(many=True)
    next_cursor = serializers.CharField(
        allow_null=True, help_text="The `cursor` of the next page; null on the last one."
    )


class PreviewTimeSerializer(serializers.Serializer[Any]):
    utc = TimestampField()
    local = serializers.DateTimeField(help_text="The same moment in the time zone that was asked for.")


class PreviewResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success"])
    schedule = serializers.CharField()
    timezone = serializers.CharField()
    description = serializers.CharField(
        help_text="The schedule in English; the expression itself where no true words are known."
    )
    upcoming = PreviewTimeSerializer(many=True)
    warnings = serializers.ListField(
        child=serializers.CharField(), help_text="What the owner may not expect, for example fewer times than wanted."
    )
