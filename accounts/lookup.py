"""Finding an account by its id, one of its e-mail addresses in any case, or its name; an organization by id or name."""

from typing import Any

from django.db.models import QuerySet

from accounts.models import Account, AccountEmail, Organization
from core.text import parse_uuid


class LookupFailed(Exception):
    """The message says what was looked for."""


class NotFound(LookupFailed):
    pass


class Ambiguous(LookupFailed):
    """Several rows have this name. The message has their ids."""


def find_account(text: str) -> Account:
    if "@" in text:
        found = Account.objects.filter(emails__in=AccountEmail.objects.with_address(text)).first()
    else:
        found = by_id_or_name(Account.objects.all(), text)
    if found is None:
        raise NotFound(f"No account has the id, the e-mail address or the name {text!r}.")
    return found


def find_organization(text: str) -> Organization:
    found = by_id_or_name(Organization.objects.all(), text)
    if found is None:
        raise NotFound(f"No organization has the id or the name {text!r}.")
    return found


def by_id_or_name(rows: QuerySet[Any], text: str) -> Any:
    """None where there is none."""
    row_id = parse_uuid(text)
    if row_id is not None:
        return rows.filter(pk=row_id).first()
    named = list(rows.filter(name=text).order_by("pk")[:5])
    if len(named) > 1:
        ids = ", ".join(str(one.pk) for one in named)
        raise Ambiguous(f"Several have the name {text!r}. Give one of the ids {ids}.")
    return named[0] if named else None
