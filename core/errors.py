"""Exceptions become error responses here. Every error body of the API is built by one of the serializers below.

The published error bodies differ per operation. A view names them in `error_serializer` (its default) and
`error_serializers` (by method and status).
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from django.core.exceptions import PermissionDenied, SuspiciousOperation, ValidationError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.urls import Resolver404, resolve
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import APIException, MethodNotAllowed, ParseError
from rest_framework.response import Response

from core.connections import DATABASE_ERRORS

INTERNAL = "Something went wrong on our side. It has been logged; please try again."
BAD_REQUEST = "The request is not valid: check its host, its path and its parameters."
FORBIDDEN = "You may not do this."
NOT_FOUND = "There is nothing at this path. /api/schema/ lists all paths."
MESSAGE_HELP = "What was wrong, with which value, and what to do."

DATABASE_AWAY = "The database did not answer in time. Please try again in {} seconds."
DATABASE_RETRY_AFTER = 2

logger = logging.getLogger(__name__)

FieldPath = list[str | int] | None
DJANGO_EXCEPTIONS: tuple[tuple[type[Exception], int, str], ...] = (
    (Http404, 404, NOT_FOUND),
    (PermissionDenied, 403, FORBIDDEN),
    (SuspiciousOperation, 400, BAD_REQUEST),
)


# --- Error bodies ----------------------------------------------------------------------------------------------------


@extend_schema_field({"type": "array", "items": {"oneOf": [{"type": "string"}, {"type": "integer"}]}})
class FieldPathField(serializers.ListField):
    """Keys and indexes from the body down to the field."""


@extend_schema_field({"type": "integer", "format": "int32"})
class StatusField(serializers.IntegerField):
    """An HTTP status."""


class ErrorSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["error"], required=False)
    error = StatusField(help_text="The HTTP status.")
    message = serializers.CharField(help_text=MESSAGE_HELP)
    missing_fields = FieldPathField(required=False, help_text="The path to the first invalid field of a body.")

    @staticmethod
    def body(status: int, message: str, path: FieldPath) -> dict[str, Any]:
        found = {"status": "error", "error": status, "message": message}
        return found if path is None else {**found, "missing_fields": path}


class FailureSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["error"])
    error = serializers.CharField(help_text=MESSAGE_HELP)

    @staticmethod
    def body(status: int, message: str, path: FieldPath) -> dict[str, Any]:
        return {"status": "error", "error": message}


class ValidationFailureSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["error"])
    missing_fields = FieldPathField(
        help_text="The path to the first invalid field; empty when the body as a whole is invalid."
    )
    error = serializers.CharField(help_text=MESSAGE_HELP)

    @staticmethod
    def body(status: int, message: str, path: FieldPath) -> dict[str, Any]:
        return {"status": "error", "missing_fields": path or [], "error": message}


class TextErrorSerializer(serializers.Serializer[Any]):
    """The error body of newer endpoints. Existing clients read `error` first and expect a text."""

    status = serializers.ChoiceField(choices=["error"])
    error = serializers.CharField(help_text=MESSAGE_HELP)
    message = serializers.CharField(help_text="The same text.")

    @staticmethod
    def body(status: int, message: str, path: FieldPath) -> dict[str, Any]:
        return {"status": "error", "error": message, "message": message}


ErrorBody = TextErrorSerializer | ErrorSerializer | FailureSerializer | ValidationFailureSerializer


def error_serializer_of(view: object, method: str, status: int) -> type[ErrorBody]:
    """The serializer of an error of this view, or of its class."""
    named: Mapping[tuple[str, int], type[ErrorBody]] = getattr(view, "error_serializers", {})
    default: type[ErrorBody] = getattr(view, "error_serializer", ErrorSerializer)
    return named.get((method, status), default)


# --- Exceptions in views ---------------------------------------------------------------------------------------------


def exception_handler(exception: Exception, context: dict[str, Any]) -> Response | None:
    """REST framework's EXCEPTION_HANDLER. None for any other exception, which then ends in `server_error`."""
    described = describe(exception)
    if described is None:
        return None
    status, message, headers = described
    if isinstance(exception, MethodNotAllowed):
        message = f"{message} Allowed methods: {', '.join(context['view'].allowed_methods)}."
    serializer = error_serializer_of(context["view"], context["request"].method, status)
    body = getattr(exception, "body", None) or serializer.body(status, message, path_of(exception))
    response = Response(body, status=status, headers=headers)
    if isinstance(exception, DATABASE_ERRORS):
        log_database_error(exception, context["request"], response)
    return response


def log_database_error(exception: Exception, request: Any, response: Any) -> None:
    """One line, instead of Django's and a traceback. A driver's message may contain a password."""
    logger.error("%s %s failed: the database raised %s", request.method, request.path, type(exception).__name__)
    response._has_been_logged = True


def describe(exception: Exception) -> tuple[int, str, dict[str, str]] | None:
    """(status, message, headers)"""
    if isinstance(exception, APIException):
        return exception.status_code, first_message(exception.detail), headers_of(exception)
    if isinstance(exception, DATABASE_ERRORS):
        seconds = DATABASE_RETRY_AFTER
        return 500, DATABASE_AWAY.format(seconds), {"Retry-After": str(seconds)}
    for kind, status, message in DJANGO_EXCEPTIONS:
        if isinstance(exception, kind):
            return status, message, {}
    return None


def path_of(exception: Exception) -> FieldPath:
    """None for an error that is not about a body; empty when the body as a whole is invalid."""
    return [] if isinstance(exception, ParseError) else getattr(exception, "path", None)


def headers_of(exception: APIException) -> dict[str, str]:
    headers = {
        "WWW-Authenticate": getattr(exception, "auth_header", None),
        "Retry-After": getattr(exception, "wait", None),
    }
    return {name: str(value) for name, value in headers.items() if value}


def first_message(detail: Any) -> str:
    while isinstance(detail, list | dict):
        detail = next(iter(detail.values() if isinstance(detail, dict) else detail))
    return str(detail)


# --- Django's handlers: errors outside a view ------------------------------------------------------------------------


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(request, 400, BAD_REQUEST)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(request, 403, FORBIDDEN)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    # A view that knows better has said so.
    said = exception.args[0] if exception.args and isinstance(exception.args[0], str) else ""
    return error_response(request, 404, said if said.startswith(NOT_FOUND) else NOT_FOUND)


def server_error(request: HttpRequest) -> HttpResponse:
    return error_response(request, 500, INTERNAL)


def error_response(request: HttpRequest, status: int, message: str) -> JsonResponse:
    serializer = error_serializer_of(view_at(request.path_info), str(request.method), status)
    return JsonResponse(serializer.body(status, message, None), status=status)


class DatabaseErrors:
    """Middleware: what `exception_handler` does for the API, for the views of the admin site."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, ValidationError):
            # Django's "view on site" does not expect an id of the wrong kind.
            return error_response(request, 400, BAD_REQUEST)
        if not isinstance(exception, DATABASE_ERRORS):
            return None
        response = error_response(request, 500, DATABASE_AWAY.format(DATABASE_RETRY_AFTER))
        response["Retry-After"] = str(DATABASE_RETRY_AFTER)
        log_database_error(exception, request, response)
        return response


def view_at(path: str) -> object:
    try:
        return getattr(resolve(path).func, "cls", None)
    except Resolver404:
        return None
