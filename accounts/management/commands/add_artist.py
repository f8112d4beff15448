"""Creates an artist, and lets an account or an organization work with it."""

from argparse import ArgumentParser
from typing import Any

from accounts.directory import create_account
from accounts.lookup import NotFound, find_account
from accounts.management.base import AccountsCommand, parse_id
from accounts.management.commands import link_artist


class Command(link_artist.Command):
    help = "Create an artist, if none has the id or else the name, and link it. Again changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        AccountsCommand.add_arguments(self, parser)
        parser.add_argument("name")
        parser.add_argument("--id", help="the artist's id; a random one by default")
        link_artist.add_partner_arguments(parser)

    def change(self, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
        artist_id = parse_id(options["id"])
        try:
            artist = find_account(options["id"] or options["name"])
        except NotFound:
            artist = create_account(options["name"], account_id=artist_id, **self.common)
        return self.link(artist, options)
