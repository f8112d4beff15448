"""The bodies of the public API. Runs are passed on as Trigger.dev sent them; their fields here are documentation."""

from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from core.timestamps import as_text
from tasks.models import SyncStatus
from tasks.runs.known import RunsStatus


class MomentField(serializers.DateTimeField):
    def to_representation(self, value: datetime) -> str:
        return as_text(value)


@extend_schema_field({"type": "number"})
class NumberField(serializers.FloatField):
    """Any JSON number; drf-spectacular would narrow it to a double."""


class TaskRunResponseSerializer(serializers.Serializer[Any]):
    """A run, untouched; `tasks.openapi` describes it."""

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
        help_text="The AI model that runs the prompt; null for ours.",
    )
    owner_email = serializers.CharField(
        source="task.owner_email", allow_null=True, help_text="The owner's primary address; null when there is none."
    )
    created_at = MomentField(source="task.created_at")
    updated_at = MomentField(source="task.updated_at")
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
            "or could not be asked for (unavailable)."
        ),
    )
    runs_as_of = MomentField(allow_null=True, help_text="When Trigger.dev said so; null when it could not be asked.")
    upcoming = serializers.ListField(
        child=MomentField(), help_text="The next times at which the task runs; none while it is paused."
    )

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """All are always sent, but the published schema requires none, and the schema says what is published."""
        fields: dict[str, serializers.Field[Any, Any, Any, Any]] = super().get_fields()
        for field in fields.values():
            field.required = False
        return fields


class TasksResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success", "error"])
    tasks = TaskSerializer(many=True)
    next_cursor = serializers.CharField(
        required=False, allow_null=True, help_text="With `limit`: the `cursor` of the next page; null on the last one."
    )
    error = serializers.CharField(required=False)


class DeleteTaskResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success", "error"])
    error = serializers.CharField(required=False)


class TaskRunListResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success"])
    runs = TaskRunResponseSerializer(many=True)
    runs_status = serializers.ChoiceField(choices=[status.value for status in RunsStatus], required=False)
    runs_as_of = MomentField(allow_null=True, required=False)


class PreviewTimeSerializer(serializers.Serializer[Any]):
    utc = MomentField()
    local = serializers.DateTimeField(help_text="The same moment in the time zone that was asked for.")


class PreviewResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success"])
    schedule = serializers.CharField()
    timezone = serializers.CharField()
    description = serializers.CharField(help_text="The schedule in words.")
    upcoming = PreviewTimeSerializer(many=True)
