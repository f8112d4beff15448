"""The whole public API."""

from django.urls import include, path
from drf_spectacular.views import SpectacularJSONAPIView

urlpatterns = [
    path("api/", include("tasks.urls")),
    path("api/schema/", SpectacularJSONAPIView.as_view(), name="schema"),
]

handler400 = "recoup.errors.bad_request"
handler403 = "recoup.errors.permission_denied"
handler404 = "recoup.errors.not_found"
handler500 = "recoup.errors.server_error"
