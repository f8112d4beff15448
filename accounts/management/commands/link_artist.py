"""Lets an account or an organization work with an artist."""

from argparse import ArgumentParser
from typing import Any

from accounts.directory import link_artist
from accounts.lookup import find_account, find_organization
from accounts.management.base import AccountsCommand
from accounts.models import Account


class Command(AccountsCommand):
    help = "Let an account or an organization put an artist on its tasks. Again changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("artist", help="the artist's id, an e-mail address or its name")
        add_partner_arguments(parser)

    def change(self, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
        return self.link(find_account(options["artist"]), options)

    def link(self, artist: Account, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
        account = find_account(options["account"]) if options["account"] else None
        organization = find_organization(options["organization"]) if options["organization"] else None
        values = {"account": account, "organization": organization, "pinned": options["pinned"]}
        _, made = link_artist(artist, **values, **self.common)
        partner: Any = account or organization
        kind = "account_id" if account else "organization_id"
        result = {"artist_account_id": str(artist.pk), kind: str(partner.pk), "created": made}
        return result, f"{partner} works {'now' if made else 'already'} with {artist} ({artist.pk})."


def add_partner_arguments(parser: ArgumentParser) -> None:
    partner = parser.add_mutually_exclusive_group(required=True)
    partner.add_argument("--account", help="an account that works with the artist")
    partner.add_argument("--organization", help="an organization whose accounts work with the artist")
    parser.add_argument("--pinned", action="store_true", help="pin the artist")
