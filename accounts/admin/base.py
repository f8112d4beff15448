"""What admin pages share: odd addresses; and for accounts an event for every change, and who may give admin rights."""

from copy import copy
from typing import Any
from uuid import UUID

from django import forms
from django.contrib.admin.utils import NestedObjects
from django.contrib.admin.views.main import ERROR_FLAG
from django.core.exceptions import PermissionDenied
from django.db import DataError, transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.shortcuts import redirect
from django.utils import timezone
from unfold.admin import ModelAdmin

from accounts import events
from accounts.access import is_admin
from accounts.models import Account, AccountEmail, ApiKey, Event, Identity, Membership
from core.text import parse_uuid

MAX_EVENTS = 50


def actor_of(request: HttpRequest) -> events.Actor:
    return events.staff_actor(request.user.get_username())


def newest_events(found: Q) -> list[tuple[Event, str]]:
    """Each with its actor in words."""
    shown = list(Event.objects.filter(found)[:MAX_EVENTS])
    ids = [event.actor_id for event in shown if event.actor_kind == Event.ActorKind.ACCOUNT]
    accounts = Account.objects.filter(pk__in=filter(None, map(parse_uuid, ids)))
    names = {str(account.pk): account.name for account in accounts}
    return [(event, names.get(event.actor_id, event.actor_id)) for event in shown]


def gives_admin_rights(obj: Any) -> bool:
    """Whether who has this row may act for every account."""
    if isinstance(obj, Membership):
        return obj.organization.grants_admin
    return isinstance(obj, ApiKey | Identity | AccountEmail) and is_admin(obj.account)


class RightsForm(forms.ModelForm):
    """Only superusers may give admin rights, or change what gives them."""

    user: Any  # set by the ModelAdmin

    def clean(self) -> dict[str, Any]:
        values = dict(super().clean() or self.cleaned_data)
        if self.errors or self.user.is_superuser:
            return values
        rows = [] if self.instance._state.adding else [self.instance]
        changed = copy(self.instance)
        for name in ("account", "organization"):
            if name in values:
                setattr(changed, name, values[name])
        if any(gives_admin_rights(row) for row in [*rows, changed]):
            raise forms.ValidationError("Only a superuser may change what gives admin rights.")
        return values


class RobustAdmin(ModelAdmin):
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """Django checks the type of a value in the address, and not whether the database can hold it."""
        if request.method == "POST" and not (
            self.has_change_permission(request) or self.has_delete_permission(request)
        ):
            raise PermissionDenied
        try:
            return super().changelist_view(request, extra_context)
        except (OverflowError, ValueError, DataError):
            return redirect(f"{request.path}?{ERROR_FLAG}=1")


class RecordingAdmin(RobustAdmin):
    """Every change leaves an event, and a page shows those of its row. Django's views run in a transaction already."""

    change_form_outer_after_template = "admin/events.html"

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        events_of = self.events_of(object_id) if object_id and request.method == "GET" else None
        return super().changeform_view(request, object_id, form_url, {**(extra_context or {}), "events": events_of})

    def events_of(self, object_id: str) -> list[tuple[Event, str]]:
        """Of the row; for an account also of everything that belongs to it."""
        target_id = str(parse_uuid(object_id) or object_id)
        found = Q(target_kind=events.kind_of(self.model), target_id=target_id)
        if self.model is Account and parse_uuid(object_id):
            found |= Q(account_id=target_id)
        return newest_events(found)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, obj, change, **kwargs)
        form.user = request.user
        return form

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        before = events.snapshot(type(obj).objects.get(pk=obj.pk)) if change else None
        super().save_model(request, obj, form, change)
        self.record(request, obj, before)

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        # Read again: the form has already changed its own rows. A deleted row loses its id.
        former = {row.pk: events.snapshot(row) for row in formset.model.objects.filter(pk__in=formset.get_queryset())}
        for deleted in formset.deleted_forms:
            if deleted.instance.pk:
                self.record_deletion(request, deleted.instance)
        super().save_formset(request, form, formset, change)
        for row in formset.new_objects:
            self.record(request, row, None)
        for row, _ in formset.changed_objects:
            self.record(request, row, former[row.pk])

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.record_deletion(request, obj)
        super().delete_model(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What gives admin rights is taken away by superusers too."""
        allowed = super().has_delete_permission(request, obj)
        return allowed and (obj is None or request.user.is_superuser or not gives_admin_rights(obj))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        if not all(self.has_delete_permission(request, obj) for obj in queryset):
            raise PermissionDenied
        with transaction.atomic():
            for obj in queryset:
                self.record_deletion(request, obj)
            super().delete_queryset(request, queryset)

    def record(self, request: HttpRequest, obj: Any, before: dict[str, Any] | None) -> None:
        account_id, actor, at = account_id_of(obj), actor_of(request), timezone.now()
        if before is None:
            after = events.snapshot(obj)
            events.record(events.CREATED, obj, account_id=account_id, actor=actor, at=at, after=after)
        else:
            events.record_change(obj, before, account_id=account_id, actor=actor, at=at)

    def record_deletion(self, request: HttpRequest, obj: Any) -> None:
        """Of the row, and of every row that goes with it."""
        collector, actor, at = NestedObjects(using="default"), actor_of(request), timezone.now()
        collector.collect([obj])
        for rows in collector.data.values():
            for row in rows:
                if hasattr(row, "recorded"):
                    before, account_id = events.snapshot(row), account_id_of(row)
                    events.record(events.DELETED, row, account_id=account_id, actor=actor, at=at, before=before)


def account_id_of(obj: Any) -> UUID | None:
    """The account that a row of this app belongs to. An organization belongs to none."""
    return obj.pk if isinstance(obj, Account) else getattr(obj, "account_id", None)
