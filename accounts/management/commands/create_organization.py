"""Creates an organization."""

from argparse import ArgumentParser
from typing import Any

from accounts.directory import create_organization
from accounts.lookup import NotFound, find_organization
from accounts.management.base import AccountsCommand, parse_id


class Command(AccountsCommand):
    help = "Create an organization. If one has the id or else the name already, nothing changes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("name")
        parser.add_argument("--grants-admin", action="store_true", help="its members may act for every account")
        parser.add_argument("--id", help="the organization's id; a random one by default")

    def change(self, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
        organization_id, made = parse_id(options["id"]), False
        try:
            found = find_organization(options["id"] or options["name"])
        except NotFound:
            values = {"grants_admin": options["grants_admin"], "organization_id": organization_id}
            found, made = create_organization(options["name"], **values, **self.common), True
        result = {"id": str(found.pk), "name": found.name, "grants_admin": found.grants_admin, "created": made}
        state = "was created" if made else "exists already"
        return result, f"{found} ({found.pk}) {state}."
