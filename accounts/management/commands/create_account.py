"""Creates an account: a person, an agent or an artist."""

from argparse import ArgumentParser
from typing import Any

from accounts.directory import create_account
from accounts.lookup import NotFound, find_account
from accounts.management.base import AccountsCommand, check_email, parse_id
from accounts.models import Account


class Command(AccountsCommand):
    help = "Create an account. If one has the id, an e-mail address or else the name already, nothing changes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("name")
        parser.add_argument("--email", action="append", default=[], help="may be repeated; the first one is primary")
        parser.add_argument("--id", help="the account's id; a random one by default")

    def change(self, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
        emails, account_id = [check_email(email) for email in options["email"]], parse_id(options["id"])
        account, made = self.find(options["name"], emails, options["id"]), False
        if account is None:
            account, made = create_account(options["name"], emails=emails, account_id=account_id, **self.common), True
        sentence = f"{account} ({account.pk}) was created." if made else f"{account} ({account.pk}) exists already."
        return {"id": str(account.pk), "name": account.name, "created": made}, sentence

    def find(self, name: str, emails: list[str], account_id: str | None) -> Account | None:
        """By what identifies it best: the id, else an e-mail address, else the name."""
        for text in [account_id] if account_id else emails or [name]:
            try:
                return find_account(text)
            except NotFound:
                continue
        return None
