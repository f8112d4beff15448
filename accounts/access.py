"""Which account may act for which other account. This module decides it, and knows nothing of HTTP.

Account A may act for account B when A is B, when they share an organization, or when A is in an organization that
grants admin. Acting for B never gives A the rights of B.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.db.models import QuerySet

from accounts.models import Account, ArtistLink, Membership


@dataclass(frozen=True)
class Reach:
    """Those of the given accounts that a caller may act for."""

    everyone: bool
    accounts: frozenset[UUID]

    def includes_any(self, account_ids: Iterable[UUID]) -> bool:
        """Whether one of these accounts is in reach. Only an admin reaches an empty set or an unknown account."""
        return self.everyone or not self.accounts.isdisjoint(account_ids)


def is_admin(caller: Account) -> bool:
    return Membership.objects.filter(account=caller, organization__grants_admin=True).exists()


def reach(caller: Account, account_ids: Iterable[UUID]) -> Reach:
    """Which of these accounts the caller may act for. At most two queries for any number of accounts."""
    others = set(account_ids) - {caller.pk}
    if is_admin(caller):
        return Reach(everyone=True, accounts=frozenset())
    sharing = Membership.objects.filter(account__in=others, organization__memberships__account=caller)
    shared = sharing.values_list("account_id", flat=True) if others else ()
    return Reach(everyone=False, accounts=frozenset([caller.pk, *shared]))


def works_with_any_artist(account_id: UUID, *, caller: Account) -> bool:
    """An admin's own tasks may have any artist; acting for another account does not lend it that right."""
    return account_id == caller.pk and is_admin(caller)


def artists_of(account_id: UUID, *, any_artist: bool) -> QuerySet[Account]:
    """The accounts that the account may put on a task.

    Artists that are linked to it or to one of its organizations, itself, and accounts that share an organization.
    """
    if any_artist:
        return Account.objects.all()
    organizations = Membership.objects.filter(account=account_id).values("organization")
    # A union, since each part has its index, and `OR` would read every account.
    found = ArtistLink.objects.filter(account=account_id).values("artist_account")
    return Account.objects.filter(
        pk__in=found.union(
            ArtistLink.objects.filter(organization__in=organizations).values("artist_account"),
            Membership.objects.filter(organization__in=organizations).values("account"),
            Account.objects.filter(pk=account_id).order_by().values("pk"),
        )
    )


def works_with_artist(account_id: UUID, artist_id: UUID, *, caller: Account) -> bool:
    """Whether the account may put the artist on a task."""
    any_artist = works_with_any_artist(account_id, caller=caller)
    return artists_of(account_id, any_artist=any_artist).filter(pk=artist_id).exists()


def may_act_for(caller: Account, account_id: UUID) -> bool:
    return account_id == caller.pk or reach(caller, [account_id]).includes_any([account_id])
