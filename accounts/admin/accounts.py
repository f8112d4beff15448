"""The admin pages of accounts, organizations, memberships, artists and identities."""

from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from unfold.admin import TabularInline

from accounts.admin.base import RecordingAdmin, RightsForm
from accounts.models import Account, AccountEmail, ArtistLink, Identity, Membership, Organization

admin.site.site_header = "Recoup Tasks"
admin.site.site_title = "Recoup Tasks"
admin.site.index_title = "Accounts and tasks"
admin.site.site_url = "/api/docs/"


class RightsInline(TabularInline):
    form = RightsForm
    extra = 0

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        formset: Any = super().get_formset(request, obj, **kwargs)
        formset.form.user = request.user
        return formset


class EmailInline(RightsInline):
    model = AccountEmail


class MembershipInline(RightsInline):
    model = Membership
    autocomplete_fields = ("account", "organization")


@admin.register(Account)
class AccountAdmin(RecordingAdmin):
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
class AccountEmailAdmin(RecordingAdmin):
    form = RightsForm
    list_display = ("email", "account", "is_primary")
    list_filter = ("is_primary",)
    search_fields = ("email", "account__name")
    autocomplete_fields = ("account",)
    list_select_related = ("account",)


@admin.register(Organization)
class OrganizationAdmin(RecordingAdmin):
    list_display = ("name", "grants_admin", "id")
    list_filter = ("grants_admin",)
    search_fields = ("name", "id")
    readonly_fields = ("id",)
    inlines = (MembershipInline,)

    def get_readonly_fields(self, request: HttpRequest, obj: Organization | None = None) -> tuple[str, ...]:
        return self.readonly_fields if request.user.is_superuser else (*self.readonly_fields, "grants_admin")


@admin.register(Membership)
class MembershipAdmin(RecordingAdmin):
    form = RightsForm
    list_display = ("account", "organization")
    list_filter = ("organization",)
    search_fields = ("account__name", "organization__name")
    autocomplete_fields = ("account", "organization")
    list_select_related = ("account", "organization")


@admin.register(ArtistLink)
class ArtistLinkAdmin(RecordingAdmin):
    list_display = ("artist_account", "account", "organization", "pinned")
    list_filter = ("pinned", "organization")
    search_fields = ("artist_account__name", "account__name", "organization__name")
    autocomplete_fields = ("artist_account", "account", "organization")
    list_select_related = ("artist_account", "account", "organization")


@admin.register(Identity)
class IdentityAdmin(RecordingAdmin):
    form = RightsForm
    list_display = ("subject", "issuer", "account")
    list_filter = ("issuer",)
    search_fields = ("subject", "issuer", "account__name")
    autocomplete_fields = ("account",)
    list_select_related = ("account",)
