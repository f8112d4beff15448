"""Linking a user of the token provider to an account: by hand, or by a verified e-mail where TOKEN_ACCOUNTS allows it.

Only a verified e-mail links. It never links to an account with admin rights, so a provider that is tricked into
verifying an address gives nobody the rights of an admin; nor where several accounts could be meant.
"""

from datetime import datetime

from django.conf import settings
from django.db import IntegrityError, transaction

from accounts import events
from accounts.access import is_admin
from accounts.credentials.tokens import TokenUser
from accounts.directory import create_account
from accounts.models import Account, AccountEmail, Event, Identity
from core.text import is_email

CREATE = "create"  # a value of TOKEN_ACCOUNTS
MAX_NAME = 200  # characters; of the column


def link_by_email(user: TokenUser, email: str, *, at: datetime) -> Identity | None:
    """The identity of a user that no account has yet, by an e-mail that the provider has verified; else None."""
    # ASCII only: other letters can look like those of an address that somebody else has.
    if not settings.TOKEN_ACCOUNTS or not email.isascii() or not is_email(email):
        return None
    actor = events.Actor(Event.ActorKind.PROVIDER, user.issuer, Event.Via.API)
    try:
        with transaction.atomic():
            account = account_for(email, actor=actor, at=at)
            return link(account, issuer=user.issuer, subject=user.subject, actor=actor, at=at)[0] if account else None
    except IntegrityError:
        # Another request of the same user was first.
        return Identity.objects.select_related("account").filter(issuer=user.issuer, subject=user.subject).first()


def account_for(email: str, *, actor: events.Actor, at: datetime) -> Account | None:
    """The one account that has this e-mail, or a new one where that is allowed."""
    found = list(Account.objects.filter(emails__in=AccountEmail.objects.with_address(email)).distinct()[:2])
    if not found and settings.TOKEN_ACCOUNTS == CREATE:
        return create_account(email.partition("@")[0][:MAX_NAME], emails=[email], actor=actor, at=at)
    return found[0] if len(found) == 1 and not is_admin(found[0]) else None


def link(account: Account, *, issuer: str, subject: str, actor: events.Actor, at: datetime) -> tuple[Identity, bool]:
    """The identity, perhaps of another account, and whether it is new."""
    with transaction.atomic():
        identity, made = Identity.objects.get_or_create(issuer=issuer, subject=subject, defaults={"account": account})
        if made:
            after = events.snapshot(identity)
            events.record(events.CREATED, identity, account_id=account.pk, actor=actor, at=at, after=after)
    return identity, made
