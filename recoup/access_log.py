"""The access log: one line for each request.

django-structlog gives every line of a request its id. Of a request it would log the whole address and the browser, so
what is logged of it is chosen here: never the query, which may hold a key that a caller has put there by mistake.
"""

import time
from typing import Any

import structlog
from django.dispatch import receiver
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django_structlog import signals
from django_structlog.middlewares import RequestMiddleware

from accounts.models import Account
from core.schema import METHODS

UNKNOWN = "unknown"
KNOWN_METHODS = frozenset((*METHODS, "HEAD", "OPTIONS", "PUT"))


class AccessLog(RequestMiddleware):
    def __call__(self, request: HttpRequest) -> Any:
        request.recoup_started_at = time.perf_counter()  # type: ignore[attr-defined]
        try:
            return super().__call__(request)
        finally:
            # Also where something failed on the way: a thread has other requests after this one.
            structlog.contextvars.clear_contextvars()

    @staticmethod
    def format_request(request: HttpRequest) -> str:
        """The method and the route: of an unknown address nothing, since callers invent them."""
        method = request.method if request.method in KNOWN_METHODS else UNKNOWN
        found = request.resolver_match
        # Of `api/tasks/?$`, for example.
        return f"{method} /{found.route.removesuffix('/?$') if found else UNKNOWN}"

    @staticmethod
    def bind_user_id(request: HttpRequest) -> None:
        """`add_result` names the account."""

    def process_got_request_exception(self, sender: Any, request: HttpRequest, **kwargs: Any) -> None:
        """Django logs it, with its traceback. The line of the request follows."""


@receiver(signals.bind_extra_request_finished_metadata)
def add_result(request: HttpRequest, response: HttpResponseBase, log_kwargs: dict[str, Any], **kwargs: Any) -> None:
    user: Any = request.__dict__.get("user")
    log_kwargs["status"] = log_kwargs.pop("code")
    log_kwargs["route"] = log_kwargs.pop("request")
    log_kwargs["milliseconds"] = round((time.perf_counter() - request.recoup_started_at) * 1000, 1)  # type: ignore[attr-defined]
    # Not isinstance: it would look up the user of a session.
    if issubclass(type(user), Account):
        log_kwargs["account"] = str(user.pk)
    response.headers["X-Request-ID"] = structlog.contextvars.get_contextvars().get("request_id", "")
