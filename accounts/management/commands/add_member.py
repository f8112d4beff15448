"""Adds an account to an organization."""

from argparse import ArgumentParser
from typing import Any

from accounts.directory import add_member
from accounts.lookup import find_account, find_organization
from accounts.management.base import AccountsCommand


class Command(AccountsCommand):
    help = "Add an account to an organization, whose members may act for each other. Again changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("account", help="the account's id, an e-mail address or its name")
        parser.add_argument("organization", help="the organization's id or its name")

    def change(self, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
        account, organization = find_account(options["account"]), find_organization(options["organization"])
        membership, made = add_member(account, organization, **self.common)
        result = {"account_id": str(account.pk), "organization_id": str(organization.pk), "created": made}
        return {"id": membership.pk, **result}, f"{account} is {'now ' if made else 'already '}in {organization}."
