"""The admin page of API keys."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from accounts.admin.base import RecordingAdmin, RightsForm, actor_of
from accounts.keys import create_key, revoke_key
from accounts.models import ApiKey


@admin.register(ApiKey)
class ApiKeyAdmin(RecordingAdmin):
    """A key is shown once, on the page after its creation. No message, session or log contains it."""

    form = RightsForm
    list_display = ("name", "account", "prefix", "state", "last_used_at", "created_at")
    list_filter = (("revoked_at", admin.EmptyFieldListFilter), "created_at", "expires_at")
    search_fields = ("name", "prefix", "account__name", "account__emails__email")
    autocomplete_fields = ("account",)
    list_select_related = ("account",)
    readonly_fields = ("prefix", "created_at", "last_used_at", "revoked_at")
    actions = ("revoke",)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """A digest could be guessed digit by digit."""
        return not lookup.startswith("digest") and super().lookup_allowed(lookup, value, request)

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        fields = ("account", "name", "expires_at")
        return (*fields, *self.readonly_fields) if obj else fields

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        return (*self.readonly_fields, "account") if obj else self.readonly_fields

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
        else:
            form.created_key = create_key(obj, actor=actor_of(request), at=timezone.now())

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        request.created_key = getattr(form, "created_key", None)  # type: ignore[attr-defined]
        return super().construct_change_message(request, form, formsets, add)

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        context = {**self.admin_site.each_context(request), "title": "The key was created", "api_key": obj}
        context |= {"key": request.created_key, "opts": self.opts}  # type: ignore[attr-defined]
        return TemplateResponse(request, "admin/accounts/apikey/created.html", context)

    @admin.display(description="State")
    def state(self, key: ApiKey) -> str:
        if key.revoked_at:
            return "revoked"
        return "expired" if key.expires_at and key.expires_at <= timezone.now() else "valid"

    @admin.action(description="Revoke the selected keys", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        revoked = sum(revoke_key(key, actor=actor_of(request), at=timezone.now()) for key in queryset)
        self.message_user(request, f"{revoked} keys were revoked. They no longer work.")
