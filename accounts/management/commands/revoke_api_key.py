"""Revokes an API key."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from accounts.keys import digests_of, revoke_key
from accounts.management.base import AccountsCommand
from accounts.models import ApiKey


class Command(AccountsCommand):
    help = "Revoke an API key: it stops working at once. Again changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("key", help="the key's id, its prefix, or the whole key")

    def change(self, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
        key = find_key(options["key"])
        revoked = revoke_key(key, **self.common)
        result = {"id": key.pk, "prefix": key.prefix, "account_id": str(key.account_id), "revoked": revoked}
        return result, f"The key {key} of {key.account} {'is' if revoked else 'was already'} revoked."


def find_key(text: str) -> ApiKey:
    keys = ApiKey.objects.select_related("account")
    if text.isdecimal() and text.isascii():
        found = list(keys.filter(pk=int(text[:18])))
    else:
        found = list(keys.filter(digest__in=digests_of(text))) or list(keys.filter(prefix=text)[:2])
    if len(found) != 1:
        problem = "Several keys have this prefix. Give the id." if found else "No key has this id or prefix."
        raise CommandError(problem)
    return found[0]
