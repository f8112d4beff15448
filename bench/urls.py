from django.urls import include, path

from bench.bare import BareView, ClearCacheView

urlpatterns = [
    path("bench/bare", BareView.as_view()),
    path("bench/clear-cache", ClearCacheView.as_view()),
    path("", include("recoup.urls")),
]
