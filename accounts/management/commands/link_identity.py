"""Links a user of the token provider to an account."""

import json
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from accounts.events import command_actor
from accounts.linking import link
from accounts.lookup import LookupFailed, find_account

ACTOR = command_actor("link_identity")


class Command(BaseCommand):
    help = "Link a provider's user (the `sub` of its tokens) to an account. Linking it again changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("account", help="the account's id, an e-mail address or its name")
        parser.add_argument("subject", help="the `sub` of the tokens")
        parser.add_argument("--issuer", default=settings.TOKEN_ISSUER, help="their `iss` (default: TOKEN_ISSUER)")
        parser.add_argument("--json", action="store_true", help="print the identity as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        issuer, subject = options["issuer"], options["subject"]
        if not issuer or not subject:
            raise CommandError("The subject must not be empty. Without TOKEN_ISSUER, give --issuer.")
        try:
            account = find_account(options["account"])
        except LookupFailed as error:
            raise CommandError(str(error)) from None
        identity, made = link(account, issuer=issuer, subject=subject, actor=ACTOR, at=timezone.now())
        if identity.account_id != account.pk:
            raise CommandError(
                f"{subject} at {issuer} is already linked to {identity.account}. Remove that identity first."
            )
        if options["json"]:
            printed = {
                "id": identity.pk,
                "issuer": issuer,
                "subject": subject,
                "account_id": str(account.pk),
                "made": made,
            }
            self.stdout.write(json.dumps(printed))
        else:
            self.stdout.write(f"{subject} at {issuer} is linked to {account}.")
