"""Creates a user of the admin site."""

import secrets
from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.management.base import CommandError

from accounts.management.base import AccountsCommand, check_email


class Command(AccountsCommand):
    help = "Create a user of the admin site, with a password that is printed once. Again changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("username")
        parser.add_argument("--email", default=None)
        rights = parser.add_mutually_exclusive_group(required=True)
        rights.add_argument("--role", help="the name of a group: viewer, operator or access manager")
        rights.add_argument("--superuser", action="store_true", help="may do everything")

    def change(self, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
        users, username = get_user_model().objects, options["username"]
        if users.filter(username=username).exists():
            return {"username": username, "created": False}, f"{username} exists already."
        email = check_email(options["email"]) if options["email"] else ""
        group = self.group(options["role"]) if options["role"] else None
        password = secrets.token_urlsafe(18)
        values = {"email": email, "is_staff": True, "is_superuser": options["superuser"]}
        user = users.create_user(username, password=password, **values)
        if group is not None:
            user.groups.add(group)
        result = {"username": username, "password": password, "created": True}
        return result, f"{username} was created. Password, shown only once: {password}"

    def group(self, name: str) -> Group:
        found = Group.objects.filter(name=name).first()
        if found is None:
            names = ", ".join(Group.objects.values_list("name", flat=True)) or "none"
            raise CommandError(f"There is no role {name!r}. Roles: {names}.")
        return found
