"""The bare view, a lower bound for any authenticated response: REST framework, our authentication and fixed bytes."""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

FOLDER = Path(settings.VAR_DIR) / "bench" / "bytes"


@lru_cache
def content(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


class BareView(APIView):
    def get(self, request: Request) -> HttpResponse:
        return HttpResponse(content(request.query_params["name"]), content_type="application/json")


class ClearCacheView(APIView):
    """Clears the cache of the worker that answers, and returns its process id."""

    def post(self, request: Request) -> Response:
        cache.clear()
        return Response({"worker": os.getpid()})


def count_queries(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], HttpResponseBase]:
    def middleware(request: HttpRequest) -> HttpResponseBase:
        if "x-bench-queries" not in request.headers:
            return get_response(request)
        query_count = 0

        def count_query(execute: Callable[..., object], *arguments: object) -> object:
            nonlocal query_count
            query_count += 1
            return execute(*arguments)

        with connection.execute_wrapper(count_query):
            response = get_response(request)
        response["x-bench-queries"] = str(query_count)
        return response

    return middleware
