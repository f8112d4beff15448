"""Headers that many answers share: who may cache them, and which scripts a page may run."""

from collections.abc import Callable

from csp.decorators import csp_update
from django.http import HttpRequest, HttpResponseBadRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

API, PUBLIC = ("/api/", "/mcp"), ("/api/schema", "/api/docs")
CREDENTIAL_HEADERS = ("x-api-key", "Authorization")

Handler = Callable[[HttpRequest], HttpResponseBase]


def private_responses(get_response: Handler) -> Handler:
    """An answer of the API belongs to its caller, and no shared cache may give it to another one."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if request.path_info.startswith(API) and not request.path_info.startswith(PUBLIC):
            response.headers.setdefault("Cache-Control", "private")
            patch_vary_headers(response, CREDENTIAL_HEADERS)
            if response.status_code == 304:
                # A client would take it for the length of the unchanged body.
                del response["Content-Length"]
        return response

    return middleware


def admin_site(get_response: Handler) -> Handler:
    """The admin site's theme evaluates expressions in its pages (Alpine.js), which needs `unsafe-eval`: only there.

    A NUL in an address is refused: PostgreSQL holds none, and Django does not expect its error.
    """
    allowed = csp_update({"script-src": ["'self'", "'unsafe-eval'"]})(get_response)

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if not request.path_info.startswith("/admin/"):
            return get_response(request)
        if "\x00" in request.path_info or "%00" in request.META.get("QUERY_STRING", ""):
            return HttpResponseBadRequest("The address contains a NUL character.", content_type="text/plain")
        return allowed(request)

    return middleware
