"""What drf-spectacular is told about the whole project: error bodies by shape, and a schema free of its own marks."""

from http import HTTPStatus
from typing import Any, cast

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema_field
from rest_framework import serializers

from accounts.api.authentication import NOT_EXACTLY_ONE
from accounts.api.permissions import MayActForAccount
from core.errors import INTERNAL, RETRY_AFTER, SHAPES, SHARE_SPENT, TRIGGER_DOWN, shape_of
from tasks.idempotency import AnotherBody
from tasks.runs.owners import RUN_NOT_FOUND
from tasks.runs.run_now import NOT_CONFIRMED

COMMON_ERRORS = (400, 401, 403, 429, 500)
# status: (what it means, a message that the API gives)
EXPLAINED = {
    400: (
        "A parameter is unknown, given twice, empty or of the wrong type; the message names it.",
        "limit must be a whole number from 1 to 100, not '0'.",
    ),
    401: ("Not exactly one credential, or one that is unknown, expired or revoked.", NOT_EXACTLY_ONE),
    403: (
        "`account_id` names an account that the caller may not act for, or that does not exist.",
        MayActForAccount.message,
    ),
    404: ("No such run, or none that the caller may see: the two cannot be told apart.", RUN_NOT_FOUND),
    429: (
        "Too many requests within a minute, with one credential or from one address; or too many questions to "
        "Trigger.dev for one account. `Retry-After` says when to try again.",
        SHARE_SPENT.format(7),
    ),
    500: (
        "Our fault; or Trigger.dev is away and nothing earlier is known: `Retry-After` says when to try again.",
        TRIGGER_DOWN.format(RETRY_AFTER),
    ),
}


@extend_schema_field({"type": "array", "items": {"oneOf": [{"type": "string"}, {"type": "integer"}]}})
class FieldPath(serializers.ListField):
    """Keys and indexes from the body down to the field."""


class ErrorSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["error"], required=False)
    error = extend_schema_field({"type": "integer", "format": "int32"})(serializers.IntegerField)(
        help_text="The HTTP status."
    )
    message = serializers.CharField(help_text="What was wrong, with which value, and what to do.")
    missing_fields = FieldPath(required=False, help_text="The path to the first wrong field of a body.")


class FailureSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["error"])
    error = serializers.CharField(help_text="What was wrong, with which value, and what to do.")


class ValidationFailureSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["error"])
    missing_fields = FieldPath(help_text="The path to the first wrong field; empty when the body as a whole is wrong.")
    error = serializers.CharField(help_text="What was wrong, with which value, and what to do.")


class TaskRunsErrorResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["error"])
    error = serializers.CharField(help_text="What was wrong, with which value, and what to do.")


SHAPE_SERIALIZERS: dict[str, type[serializers.Serializer[Any]]] = {
    "Error": ErrorSerializer,
    "TaskRunsErrorResponse": TaskRunsErrorResponseSerializer,
    "Failure": FailureSerializer,
    "ValidationFailure": ValidationFailureSerializer,
}


_WRONG_BODY = (
    "The body is no JSON object, or a field is unknown, missing, of the wrong type or not taken by Trigger.dev.",
    "schedule is not a schedule that Trigger.dev takes. The hour must be from 0 to 23, not 24.",
)
_NO_TASK = ("No such task, or none that the caller may act for: the two cannot be told apart.", "Task not found")
_PREVIEW = "/api/tasks/preview"
_INTERNAL = ("Our fault. It has been logged.", INTERNAL)
EXPLAINED_FOR_PATH = {
    (_PREVIEW, "GET", 400): ("A parameter is unknown, or of a value that no task could have.", _WRONG_BODY[1]),
    (_PREVIEW, "GET", 500): _INTERNAL,
    ("/api/tasks/runs", "POST", 400): (_WRONG_BODY[0], "id is required."),
    ("/api/tasks/runs", "POST", 500): ("Trigger.dev did not confirm the run, or our fault.", NOT_CONFIRMED),
}
EXPLAINED_FOR_WRITES = {
    **{(method, 400): _WRONG_BODY for method in ("POST", "PATCH", "DELETE")},
    **{(method, 404): _NO_TASK for method in ("POST", "PATCH", "DELETE")},
    ("POST", 409): ("The Idempotency-Key was sent with another body, or its task is gone.", str(AnotherBody.__doc__)),
}


class ContractSchema(AutoSchema):
    """Documents the error bodies of each operation from the same attributes that make them."""

    def get_filter_backends(self) -> list[Any]:
        return list(getattr(self.view, "filter_backends", []))

    def _get_response_bodies(self, direction: Any = "response") -> Any:
        named = [status for method, status in getattr(self.view, "error_shapes", {}) if method == self.method]
        errors = {
            str(status): self._get_response_for_code(self.error_response(status), str(status), None, direction)
            for status in sorted({*COMMON_ERRORS, *named} - set(getattr(self.view, "never", ())))
        }
        return {**super()._get_response_bodies(direction), **errors}

    def _get_request_body(self, direction: Any = "request") -> Any:
        """drf-spectacular leaves the body of a DELETE out; ours has one."""
        if self.method != "DELETE":
            return super()._get_request_body(direction)
        schema = self.resolve_serializer(cast(Any, self.get_request_serializer()), direction).ref
        return {"content": {"application/json": {"schema": schema}}, "required": True}

    def error_response(self, status: int) -> OpenApiResponse:
        shape = shape_of(self.view, self.method, status)
        of_path = EXPLAINED_FOR_PATH.get((self.path.rstrip("/"), self.method, status))
        meaning, message = of_path or EXPLAINED_FOR_WRITES.get((self.method, status)) or EXPLAINED[status]
        body = SHAPES[shape](status, message, None if self.method == "GET" or status != 400 else ["schedule"])
        example = OpenApiExample(HTTPStatus(status).phrase, body, status_codes=[str(status)])
        return OpenApiResponse(SHAPE_SERIALIZERS[shape], description=meaning, examples=[example])


def drop_optional_slash(endpoints: list[tuple[str, str, str, Any]], **kwargs: Any) -> list[tuple[str, str, str, Any]]:
    return [(path.rstrip("/"), pattern, method, callback) for path, pattern, method, callback in endpoints]


def drop_enum_ids(result: Any, **kwargs: Any) -> Any:
    """drf-spectacular's marks for its enum hook, which would make components of what the contract keeps in place."""
    if isinstance(result, dict):
        return {key: drop_enum_ids(value) for key, value in result.items() if key != "x-spec-enum-id"}
    return [drop_enum_ids(item) for item in result] if isinstance(result, list) else result
