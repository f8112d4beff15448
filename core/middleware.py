"""Cache headers: an answer of the API belongs to its caller, and no shared cache may give it to another one."""

from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

API = "/api/tasks"
CREDENTIAL_HEADERS = ("x-api-key", "Authorization")

Handler = Callable[[HttpRequest], HttpResponseBase]


def private_responses(get_response: Handler) -> Handler:
    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if request.path_info.startswith(API):
            response.headers.setdefault("Cache-Control", "private")
            patch_vary_headers(response, CREDENTIAL_HEADERS)
            if response.status_code == 304:
                # A client would take it for the length of the unchanged body.
                del response["Content-Length"]
        return response

    return middleware
