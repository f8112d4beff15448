"""/metrics for Prometheus, and who may read it."""

import hmac
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django_prometheus.exports import ExportToDjangoView
from django_prometheus.middleware import PrometheusAfterMiddleware

from recoup.backlog import backlog

NO_TOKEN = "/metrics needs METRICS_TOKEN as Authorization: Bearer, and METRICS_TOKEN is not set here."  # noqa: S105
WRONG_TOKEN = "Send METRICS_TOKEN as Authorization: Bearer."  # noqa: S105


class CountingMiddleware(PrometheusAfterMiddleware):
    """The library's, but an invented HTTP method does not become a label: labels are never removed."""

    def label_metric(self, metric: Any, request: Any, response: Any = None, **labels: str) -> Any:
        if "method" in labels:
            labels["method"] = self._method(request)
        return super().label_metric(metric, request, response, **labels)


def metrics(request: HttpRequest) -> HttpResponse:
    """Open without a token only with a Trigger.dev on this machine, which means development."""
    token = settings.METRICS_TOKEN
    if not token and not settings.IS_DEVELOPMENT:
        return JsonResponse({"status": "error", "error": 403, "message": NO_TOKEN}, status=403)
    sent = request.headers.get("Authorization", "").encode(errors="surrogateescape")
    if token and not hmac.compare_digest(sent, f"Bearer {token}".encode()):
        return JsonResponse({"status": "error", "error": 401, "message": WRONG_TOKEN}, status=401)
    response: HttpResponse = ExportToDjangoView(request)
    response.content += backlog.text()
    return response
