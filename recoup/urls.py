"""All URLs: the API, its documentation and the admin site."""

import json
from pathlib import Path

from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import include, path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularSwaggerSplitView

from core.schema import document
from tasks.api.mcp import McpView

LLMS = (Path(__file__).parent / "llms.txt").read_text()


def root(request: HttpRequest) -> HttpResponse:
    """Sends a browser to the documentation. For a client of the API there is nothing here."""
    if "text/html" not in request.headers.get("Accept", ""):
        raise Http404
    return redirect("docs")


def llms(request: HttpRequest) -> HttpResponse:
    """The service on one page, for agents. See https://llmstxt.org"""
    return HttpResponse(LLMS, content_type="text/plain; charset=utf-8")


def schema(request: HttpRequest) -> HttpResponse:
    """drf-spectacular's own view makes the document anew for every request."""
    content_type = "application/vnd.oai.openapi+json; charset=utf-8"
    return HttpResponse(json.dumps(document(), ensure_ascii=False), content_type=content_type)


urlpatterns = [
    path("", root),
    path("llms.txt", llms),
    re_path(r"^mcp/?$", McpView.as_view(), name="mcp"),
    path("api/", include("tasks.api.urls")),
    path("api/", include("accounts.api.urls")),
    re_path(r"^api/schema/?$", schema, name="schema"),
    re_path(r"^api/docs/?$", SpectacularSwaggerSplitView.as_view(), name="docs"),
    path("admin", RedirectView.as_view(url="/admin/")),
    path("admin/", admin.site.urls),
]

handler400 = "core.errors.bad_request"
handler403 = "core.errors.permission_denied"
handler404 = "core.errors.not_found"
handler500 = "core.errors.server_error"
