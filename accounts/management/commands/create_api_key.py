"""Makes an API key for an account, and the account too when it is told to. The key is printed once."""

import json
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from accounts.credentials import api_keys
from accounts.lookup import UnknownAccount, find_account
from accounts.models import Account, AccountEmail, ApiKey


class Command(BaseCommand):
    help = "Make an API key. It is printed once; what is stored cannot be turned back into it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("account", help="the account's id or one of its e-mail addresses")
        parser.add_argument("--name", default="Created on the command line", help="what the key is for")
        parser.add_argument("--days", type=int, help="how many days it is valid; forever by default")
        parser.add_argument("--create", metavar="NAME", help="create the account with this name if there is none")
        parser.add_argument("--json", action="store_true", help="print id, prefix and key as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["days"] is not None and options["days"] < 1:
            raise CommandError(f"--days must be 1 or more, not {options['days']}.")
        key = api_keys.create()
        with transaction.atomic():
            account = find_or_create(options["account"], options["create"])
            made = ApiKey.objects.create(
                account=account,
                name=options["name"],
                prefix=api_keys.prefix_of(key),
                digest=api_keys.digest(key, secret=settings.API_KEY_SECRET),
                expires_at=timezone.now() + timedelta(days=options["days"]) if options["days"] else None,
            )
        if options["json"]:
            printed = {"account_id": str(account.pk), "id": made.pk, "prefix": made.prefix, "key": key}
            self.stdout.write(json.dumps(printed))
        else:
            self.stdout.write(key)
            self.stderr.write(f"The key of {account}. It is shown only once.")


def find_or_create(text: str, name: str | None) -> Account:
    try:
        return find_account(text)
    except UnknownAccount as error:
        if name is None or "@" not in text:
            raise CommandError(f"{error} With --create NAME and an e-mail address, it is created.") from None
        account = Account.objects.create(name=name)
        AccountEmail.objects.create(account=account, email=text)
        return account
