"""Routed explicitly, as in `tasks.api.urls`: a key is deleted by the id in the body."""

from django.urls import re_path

from accounts.api.viewsets import AccountViewSet, AdminViewSet, ApiKeyViewSet, ArtistViewSet, OrganizationViewSet

keys = ApiKeyViewSet.as_view({"get": "list", "post": "create", "delete": "destroy"})

urlpatterns = [
    re_path(r"^accounts/id/?$", AccountViewSet.as_view({"get": "own_id"}), name="account-own-id"),
    re_path(r"^accounts/(?P<id>[^/]+)/?$", AccountViewSet.as_view({"get": "retrieve"}), name="account"),
    re_path(r"^admins/?$", AdminViewSet.as_view({"get": "retrieve"}), name="admin"),
    re_path(r"^organizations/?$", OrganizationViewSet.as_view({"get": "list"}), name="organizations"),
    re_path(r"^artists/?$", ArtistViewSet.as_view({"get": "list"}), name="artists"),
    re_path(r"^keys/?$", keys, name="keys"),
]
