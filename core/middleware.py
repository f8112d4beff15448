"""What the API says is its caller's own: no cache may give it to somebody else."""

from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

API = "/api/tasks"
CREDENTIALS = ("x-api-key", "Authorization")

Handler = Callable[[HttpRequest], HttpResponseBase]


def private_answers(get_response: Handler) -> Handler:
    def answer(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if request.path_info.startswith(API):
            response.headers.setdefault("Cache-Control", "private")
            patch_vary_headers(response, CREDENTIALS)
            if response.status_code == 304:
                # It would be taken for the length of what has not changed.
                del response["Content-Length"]
        return response

    return answer
