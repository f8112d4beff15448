"""Who may act for whom: the one place that decides it, without knowing HTTP.

Account A may act for account B when A is B, when they share an organization, or when A is in an organization that
grants admin. It ends there: acting for B never lends what B may do.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Q

from accounts.models import Account, ArtistLink, Membership


@dataclass(frozen=True)
class Reach:
    """The accounts that a caller may act for, out of those that were asked about."""

    everyone: bool
    accounts: frozenset[UUID]

    def includes_any(self, account_ids: Iterable[UUID]) -> bool:
        """Whether one of these is in reach. None at all, and accounts that do not exist, are only an admin's."""
        return self.everyone or not self.accounts.isdisjoint(account_ids)


def is_admin(caller: Account) -> bool:
    return Membership.objects.filter(account=caller, organization__grants_admin=True).exists()


def reach(caller: Account, account_ids: Iterable[UUID]) -> Reach:
    """Which of these accounts the caller may act for; at most two queries, whatever their number."""
    others = set(account_ids) - {caller.pk}
    if is_admin(caller):
        return Reach(everyone=True, accounts=frozenset())
    sharing = Membership.objects.filter(account__in=others, organization__memberships__account=caller)
    shared = sharing.values_list("account_id", flat=True) if others else ()
    return Reach(everyone=False, accounts=frozenset([caller.pk, *shared]))


def works_with_artist(account: Account, artist_id: UUID, *, caller: Account) -> bool:
    """Whether an artist is in the account's reach: linked to it or an organization of it, itself, or sharing one.

    That an admin may act for every artist counts only for the admin itself: acting for one lends nothing.
    """
    organizations = Membership.objects.filter(account=account).values("organization")
    linked = Q(account=account) | Q(organization__in=organizations)
    if ArtistLink.objects.filter(linked, artist_account=artist_id).exists():
        return True
    artist = Account.objects.filter(pk=artist_id)
    if account == caller and is_admin(caller):
        return artist.exists()
    return artist.filter(Q(pk=account.pk) | Q(memberships__organization__in=organizations)).exists()


def may_act_for(caller: Account, account_id: UUID) -> bool:
    return account_id == caller.pk or reach(caller, [account_id]).includes_any([account_id])
