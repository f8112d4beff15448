"""What a body of POST, PATCH and DELETE may say: known fields of their exact type, and texts that are texts."""

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from core.query_parameters import shown
from core.text import as_uuid
from tasks import cron
from tasks.cron import zones

# Characters. Not in the schema, where the published one has no bounds.
LONGEST_TITLE, LONGEST_PROMPT, LONGEST_MODEL = 500, 50_000, 200
LONGEST_KEY = 255


class WrongBody(ValidationError):
    """A 400 that says which field is the first wrong one; `path` is empty when the body as a whole is."""

    def __init__(self, message: str, path: list[str | int]) -> None:
        super().__init__(message)
        self.path = path


class TextField(serializers.CharField):
    """A string that is not blank, kept exactly as it came."""

    def __init__(self, *, longest: int, min_length: int | None = 1, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, min_length=min_length, **kwargs)
        self.longest = longest

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if isinstance(data, str):
            self.check(data)
        elif data is not serializers.empty and not (data is None and self.allow_null):
            raise serializers.ValidationError("must be a string.")
        return super(serializers.CharField, self).run_validation(data)

    def check(self, text: str) -> None:
        if not text.strip():
            raise serializers.ValidationError("must not be empty or blank.")
        if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise serializers.ValidationError("must not hold a NUL or half a surrogate pair.")
        if len(text) > self.longest:
            raise serializers.ValidationError(f"must be at most {self.longest} characters long, not {len(text)}.")


class CronField(TextField):
    def check(self, text: str) -> None:
        try:
            cron.check(text)
        except cron.CronError as error:
            raise serializers.ValidationError(f"is not a schedule that Trigger.dev takes. {error}") from None


class ZoneField(TextField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(longest=64, min_length=None, **kwargs)

    def check(self, text: str) -> None:
        try:
            zones.check(text)
        except zones.ZoneError as error:
            raise serializers.ValidationError(f"{shown(text)}: {error}") from None


class IdField(serializers.UUIDField):
    def to_internal_value(self, data: Any) -> UUID:
        found = as_uuid(data)
        if found is None:
            raise serializers.ValidationError("must be a UUID such as 3f0e9a52-6d0f-4c5e-9a54-0a2f2d8c7e11.")
        return found


class FlagField(serializers.BooleanField):
    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            raise serializers.ValidationError("must be true, false or null.")
        return data


def idempotency_key(request: Request) -> str:
    """Empty when there is none. One that was sent empty is an error: its sender believes that it protects."""
    if "Idempotency-Key" not in request.headers:
        return ""
    key: str = request.headers["Idempotency-Key"].strip()
    if not key:
        raise ValidationError("Idempotency-Key is empty. Give it a value or leave it out.")
    if len(key) > LONGEST_KEY:
        raise ValidationError(f"Idempotency-Key must be at most {LONGEST_KEY} characters long, not {len(key)}.")
    if not key.isprintable():
        raise ValidationError("Idempotency-Key must hold printable characters only.")
    return key


class StrictBody(serializers.Serializer[Any]):
    def checked(self) -> dict[str, Any]:
        """The values of the fields that were sent. Raises WrongBody for the first that is wrong."""
        body = self.initial_data
        if not isinstance(body, dict):
            raise WrongBody("The body must be a JSON object.", [])
        for name in body:
            if name not in self.fields:
                allowed = ", ".join(self.fields)
                raise WrongBody(f"{shown(name)} is not a field that can be written. Allowed are: {allowed}.", [name])
        if not self.is_valid():
            for name, problems in self.errors.items():
                raise WrongBody(f"{name} {sentence(problems[0])}", [name])
        return dict(self.validated_data)


def sentence(problem: Any) -> str:
    return {"required": "is required.", "null": "must not be null."}.get(getattr(problem, "code", ""), str(problem))


class CreateTaskRequestSerializer(StrictBody):
    title = TextField(longest=LONGEST_TITLE, help_text=f"At most {LONGEST_TITLE} characters.")
    prompt = TextField(longest=LONGEST_PROMPT, help_text=f"What is run; at most {LONGEST_PROMPT} characters.")
    schedule = CronField(longest=cron.MAX_LENGTH, help_text="Cron: minute, hour, day of month, month, weekday.")
    artist_account_id = IdField(help_text="An artist that the account works with.")
    account_id = IdField(required=False, help_text="Whose task it will be; the caller's own unless given.")
    model = TextField(longest=LONGEST_MODEL, required=False, help_text="The AI model that runs the prompt.")
    timezone = ZoneField(required=False, help_text="The IANA zone that the cron is read in; UTC unless given.")


class UpdateTaskRequestSerializer(StrictBody):
    id = IdField()
    title = TextField(longest=LONGEST_TITLE, required=False)
    prompt = TextField(longest=LONGEST_PROMPT, required=False)
    schedule = CronField(longest=cron.MAX_LENGTH, required=False)
    account_id = IdField(required=False, help_text="Whose task it is; never moves it.")
    artist_account_id = IdField(required=False)
    enabled = FlagField(required=False, allow_null=True, help_text="False pauses the task.")
    model = TextField(longest=LONGEST_MODEL, required=False, allow_null=True, help_text="Null takes it back.")
    timezone = ZoneField(required=False)


class DeleteTaskRequestSerializer(StrictBody):
    id = IdField()
    account_id = IdField(required=False, help_text="Whose task it is.")


class StartRunRequestSerializer(StrictBody):
    id = IdField(help_text="The task.")
    account_id = IdField(required=False, help_text="Whose task it is.")


class PreviewRequestSerializer(StrictBody):
    """Judged as a task's would be, so that a preview and a create say the same."""

    schedule = CronField(longest=cron.MAX_LENGTH)
    timezone = ZoneField(required=False)
