"""Makes an API key for an account, and the account too when it is told to. The key is printed once."""

import json
from argparse import ArgumentParser
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from accounts.directory import create_account
from accounts.events import command_actor
from accounts.keys import create_key
from accounts.lookup import LookupFailed, NotFound, find_account
from accounts.models import Account, ApiKey

ACTOR = command_actor("create_api_key")


class Command(BaseCommand):
    help = "Make an API key. It is printed once; what is stored cannot be turned back into it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("account", help="the account's id, an e-mail address or its name")
        parser.add_argument("--name", default="Created on the command line", help="what the key is for")
        parser.add_argument("--days", type=int, help="how many days it is valid; forever by default")
        parser.add_argument("--create", metavar="NAME", help="create the account with this name if there is none")
        parser.add_argument("--json", action="store_true", help="print id, prefix and key as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["days"] is not None and options["days"] < 1:
            raise CommandError(f"--days must be 1 or more, not {options['days']}.")
        now = timezone.now()
        expires_at = now + timedelta(days=options["days"]) if options["days"] else None
        with transaction.atomic():
            account = find_or_create(options["account"], options["create"], at=now)
            made = ApiKey(account=account, name=options["name"], expires_at=expires_at)
            key = create_key(made, actor=ACTOR, at=now)
        if options["json"]:
            printed = {"account_id": str(account.pk), "id": made.pk, "prefix": made.prefix, "key": key}
            self.stdout.write(json.dumps(printed))
        else:
            self.stdout.write(key)
            self.stderr.write(f"The key of {account}. It is shown only once.")


def find_or_create(text: str, name: str | None, *, at: datetime) -> Account:
    try:
        return find_account(text)
    except NotFound as error:
        if name is None or "@" not in text:
            raise CommandError(f"{error} With --create NAME and an e-mail address, it is created.") from None
        return create_account(name, emails=[text], actor=ACTOR, at=at)
    except LookupFailed as error:
        raise CommandError(str(error)) from None
