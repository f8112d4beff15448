"""The application that gunicorn serves, which also reads a body that came without its length."""

import os
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from django.core.wsgi import get_wsgi_application
from django.urls import reverse

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recoup.settings")
django_application = get_wsgi_application()
# Imports the views now: the first request of a worker would wait for it, past its deadline.
reverse("tasks")

from drf_spectacular.generators import SchemaGenerator  # noqa: E402  it reads the settings when it is imported

# Looks up drf-spectacular's extensions, which the first two requests for the schema must not do at once.
SchemaGenerator().get_schema(public=True)
# More than this is refused by the parser, so no more than that is read.
LONGEST_CHUNKED_BODY = 1024 * 1024 + 1


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return django_application(with_length(environ), start_response)


def with_length(environ: dict[str, Any]) -> dict[str, Any]:
    """Django takes a body without a Content-Length for none, so that a DELETE would be one of another task."""
    if not environ.get("HTTP_TRANSFER_ENCODING") or environ.get("CONTENT_LENGTH"):
        return environ
    body = environ["wsgi.input"].read(LONGEST_CHUNKED_BODY)
    return {**environ, "wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body))}
