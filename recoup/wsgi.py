"""The WSGI application. It also reads chunked bodies, which have no Content-Length."""

import os
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from django.core.wsgi import get_wsgi_application
from django.urls import reverse

from recoup import safety

safety.refuse()
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recoup.settings")
django_application = get_wsgi_application()
# Import the views now: the first request of a worker would take longer than its deadline.
reverse("tasks")

from drf_spectacular.generators import SchemaGenerator  # noqa: E402  it reads the settings when it is imported

# Loads drf-spectacular's extensions, which is not thread-safe.
SchemaGenerator().get_schema(public=True)
# The parser refuses a longer body, so no more is read.
MAX_CHUNKED_BODY = 1024 * 1024 + 1


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return django_application(with_length(environ), start_response)


def with_length(environ: dict[str, Any]) -> dict[str, Any]:
    """Django ignores a body without a Content-Length, and a DELETE would use the id in its query instead."""
    if not environ.get("HTTP_TRANSFER_ENCODING") or environ.get("CONTENT_LENGTH"):
        return environ
    body = environ["wsgi.input"].read(MAX_CHUNKED_BODY)
    return {**environ, "wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body))}
