"""Exception -> (status, message, headers), and shape -> body: the one place where errors become answers.

A view says in `error_shape` and `error_shapes` which published schema its errors have; anything unnamed is `Error`.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.urls import Resolver404, resolve
from rest_framework.exceptions import APIException, ParseError
from rest_framework.response import Response

from tasks.trigger.errors import NotAsked, ShareSpent, TooManyRequests, TriggerError

INTERNAL = "Something went wrong on our side. It has been logged; please try again."
BAD_REQUEST = "The request is not valid: check its host, its path and its parameters."
FORBIDDEN = "You may not do this."
NOT_FOUND = "There is nothing at this path. /api/schema/ lists what there is."
TRIGGER_DOWN = (
    "Trigger.dev cannot be asked at the moment, and nothing earlier is known. Please try again in {} seconds."
)
SHARE_SPENT = "Your account has asked for as much as one may within a minute. Please try again in {} seconds."
RETRY_AFTER = 5

# What a body of each shape is made of: the status, the message, and the path to the field that was wrong, if any.
Path = list[str | int] | None
SHAPES: dict[str, Callable[[int, str, Path], dict[str, Any]]] = {
    "Error": lambda status, message, path: {
        "status": "error",
        "error": status,
        "message": message,
        **({} if path is None else {"missing_fields": path}),
    },
    "TaskRunsErrorResponse": lambda status, message, path: {"status": "error", "error": message},
    "Failure": lambda status, message, path: {"status": "error", "error": message},
    "ValidationFailure": lambda status, message, path: {
        "status": "error",
        "missing_fields": path or [],
        "error": message,
    },
}

logger = logging.getLogger(__name__)


def shape_of(view: object, method: str, status: int) -> str:
    """The name of the published schema that an error of this view has."""
    named: Mapping[tuple[str, int], str] = getattr(view, "error_shapes", {})
    default: str = getattr(view, "error_shape", "Error")
    return named.get((method, status), default)


def handle(exception: Exception, context: dict[str, Any]) -> Response | None:
    """REST framework's exception handler; None leaves a crash to `server_error` below."""
    told = told_by(exception)
    if told is None:
        return None
    status, message, headers = told
    shape = shape_of(context["view"], context["request"].method, status)
    return Response(SHAPES[shape](status, message, path_of(exception)), status=status, headers=headers)


def told_by(exception: Exception) -> tuple[int, str, dict[str, str]] | None:
    if isinstance(exception, TriggerError):
        return told_by_trigger(exception)
    if isinstance(exception, APIException):
        return exception.status_code, first_message(exception.detail), headers_of(exception)
    for kind, status, message in DJANGO_EXCEPTIONS:
        if isinstance(exception, kind):
            return status, message, {}
    return None


def told_by_trigger(error: TriggerError) -> tuple[int, str, dict[str, str]]:
    if not isinstance(error, NotAsked):
        logger.warning("A request could not be answered: %s", error)
    known = error.retry_after if isinstance(error, TooManyRequests | NotAsked) else RETRY_AFTER
    wait = max(math.ceil(known), 1)
    status, message = (429, SHARE_SPENT) if isinstance(error, ShareSpent) else (500, TRIGGER_DOWN)
    return status, message.format(wait), {"Retry-After": str(wait)}


DJANGO_EXCEPTIONS: tuple[tuple[type[Exception], int, str], ...] = (
    (Http404, 404, NOT_FOUND),
    (PermissionDenied, 403, FORBIDDEN),
    (SuspiciousOperation, 400, BAD_REQUEST),
)


def path_of(exception: Exception) -> Path:
    """None where there was no body to be wrong; empty where it is wrong as a whole."""
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


# --- Django's own handlers: what went wrong outside a view -----------------------------------------------------------


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return answer(request, 400, BAD_REQUEST)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return answer(request, 403, FORBIDDEN)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return answer(request, 404, NOT_FOUND)


def server_error(request: HttpRequest) -> HttpResponse:
    return answer(request, 500, INTERNAL)


def answer(request: HttpRequest, status: int, message: str) -> JsonResponse:
    shape = shape_of(view_at(request.path_info), str(request.method), status)
    return JsonResponse(SHAPES[shape](status, message, None), status=status)


def view_at(path: str) -> object:
    try:
        return getattr(resolve(path).func, "cls", None)
    except Resolver404:
        return None
