"""Creating accounts, organizations, memberships and links to artists, for the commands and for new users.

A membership and a link are made once: the functions return the row, and whether it is new.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import models, transaction

from accounts import events
from accounts.models import Account, AccountEmail, ArtistLink, Membership, Organization


def create_account(
    name: str, *, emails: Sequence[str] = (), account_id: UUID | None = None, actor: events.Actor, at: datetime
) -> Account:
    """Raises IntegrityError where another account has the id or an e-mail."""
    with transaction.atomic():
        account = Account(name=name, **({"id": account_id} if account_id else {}))
        account.save(force_insert=True)
        for email in emails:
            AccountEmail.objects.create(account=account, email=email)
        after = {**events.snapshot(account), "emails": list(emails)}
        events.record(events.CREATED, account, account_id=account.pk, actor=actor, at=at, after=after)
    return account


def create_organization(
    name: str, *, grants_admin: bool, organization_id: UUID | None, actor: events.Actor, at: datetime
) -> Organization:
    with transaction.atomic():
        fields = {"id": organization_id} if organization_id else {}
        organization = Organization(name=name, grants_admin=grants_admin, **fields)
        organization.save(force_insert=True)
        after = events.snapshot(organization)
        events.record(events.CREATED, organization, account_id=None, actor=actor, at=at, after=after)
    return organization


def add_member(
    account: Account, organization: Organization, *, actor: events.Actor, at: datetime
) -> tuple[Membership, bool]:
    found = Membership.objects.filter(account=account, organization=organization)
    return get_or_create(found, actor=actor, at=at, account=account, organization=organization)


def link_artist(
    artist: Account,
    *,
    account: Account | None = None,
    organization: Organization | None = None,
    pinned: bool = False,
    actor: events.Actor,
    at: datetime,
) -> tuple[ArtistLink, bool]:
    """To either an account or an organization."""
    values = {"artist_account": artist, "account": account, "organization": organization}
    found = ArtistLink.objects.filter(**values)
    return get_or_create(found, actor=actor, at=at, **values, pinned=pinned)


def get_or_create(
    found: "models.QuerySet[Any]", *, actor: events.Actor, at: datetime, **values: Any
) -> tuple[Any, bool]:
    """The row, and an event where it is new."""
    with transaction.atomic():
        row = found.first()
        if row is not None:
            return row, False
        row = found.model(**values)
        row.save(force_insert=True)
        after, account_id = events.snapshot(row), getattr(row, "account_id", None)
        events.record(events.CREATED, row, account_id=account_id, actor=actor, at=at, after=after)
    return row, True
