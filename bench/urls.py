from django.urls import include, path

from bench.bare import BareView, ForgetView

urlpatterns = [
    path("bench/bare", BareView.as_view()),
    path("bench/forget", ForgetView.as_view()),
    path("", include("recoup.urls")),
]
