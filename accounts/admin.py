"""The admin site of accounts. Staff are Django users and manage accounts here."""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from accounts.credentials import api_keys
from accounts.models import Account, AccountEmail, ApiKey, ArtistLink, Identity, Membership, Organization

admin.site.site_header = "Recoup Tasks"
admin.site.site_title = "Recoup Tasks"
admin.site.index_title = "Accounts and tasks"
admin.site.site_url = "/api/docs/"
# The lists need the width.
admin.site.enable_nav_sidebar = False


class EmailInline(admin.TabularInline):
    model = AccountEmail
    extra = 0


class MembershipInline(admin.TabularInline):
    model = Membership
    extra = 0
    autocomplete_fields = ("account", "organization")


@admin.register(Account)
class AccountAdmin(admin.ModelAdmin):
    list_display = ("name", "primary_email", "id", "created_at")
    search_fields = ("name", "id", "emails__email")
    list_filter = ("memberships__organization",)
    date_hierarchy = "created_at"
    readonly_fields = ("id", "created_at")
    inlines = (EmailInline, MembershipInline)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Account]:
        primary = AccountEmail.objects.filter(account=OuterRef("pk"), is_primary=True)
        return super().get_queryset(request).annotate(primary_email=Subquery(primary.values("email")[:1]))

    @admin.display(description="E-mail", ordering="primary_email")
    def primary_email(self, account: Any) -> str | None:
        email: str | None = account.primary_email
        return email


@admin.register(AccountEmail)
class AccountEmailAdmin(admin.ModelAdmin):
    list_display = ("email", "account", "is_primary")
    list_filter = ("is_primary",)
    search_fields = ("email", "account__name")
    autocomplete_fields = ("account",)
    list_select_related = ("account",)


@admin.register(Organization)
class OrganizationAdmin(admin.ModelAdmin):
    list_display = ("name", "grants_admin", "id")
    list_filter = ("grants_admin",)
    search_fields = ("name", "id")
    readonly_fields = ("id",)
    inlines = (MembershipInline,)


@admin.register(Membership)
class MembershipAdmin(admin.ModelAdmin):
    list_display = ("account", "organization")
    list_filter = ("organization",)
    search_fields = ("account__name", "organization__name")
    autocomplete_fields = ("account", "organization")
    list_select_related = ("account", "organization")


@admin.register(ArtistLink)
class ArtistLinkAdmin(admin.ModelAdmin):
    list_display = ("artist_account", "account", "organization", "pinned")
    list_filter = ("pinned", "organization")
    search_fields = ("artist_account__name", "account__name", "organization__name")
    autocomplete_fields = ("artist_account", "account", "organization")
    list_select_related = ("artist_account", "account", "organization")


@admin.register(Identity)
class IdentityAdmin(admin.ModelAdmin):
    list_display = ("subject", "issuer", "account")
    list_filter = ("issuer",)
    search_fields = ("subject", "issuer", "account__name")
    autocomplete_fields = ("account",)
    list_select_related = ("account",)


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):
    """A key is shown once, on the page after its creation. No message, session or log contains it."""

    list_display = ("name", "account", "prefix", "state", "last_used_at", "created_at")
    list_filter = (("revoked_at", admin.EmptyFieldListFilter), "created_at", "expires_at")
    search_fields = ("name", "prefix", "account__name", "account__emails__email")
    autocomplete_fields = ("account",)
    list_select_related = ("account",)
    readonly_fields = ("prefix", "created_at", "last_used_at", "revoked_at")
    actions = ("revoke",)

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        fields = ("account", "name", "expires_at")
        return (*fields, *self.readonly_fields) if obj else fields

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        return (*self.readonly_fields, "account") if obj else self.readonly_fields

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if not change:
            key = api_keys.create()
            obj.prefix, obj.digest = api_keys.prefix_of(key), api_keys.digest(key, secret=settings.API_KEY_SECRET)
            form.created_key = key
        super().save_model(request, obj, form, change)

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
        revoked = queryset.filter(revoked_at__isnull=True).update(revoked_at=timezone.now())
        self.message_user(request, f"{revoked} keys were revoked. They no longer work.")
