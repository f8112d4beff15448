"""What the commands about accounts share: one change in one transaction, a sentence or JSON, and clear errors."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts.events import Actor, command_actor
from accounts.lookup import LookupFailed
from core.text import is_email, is_storable, parse_uuid

MAX_NAME = 150  # characters


class AccountsCommand(BaseCommand):
    """`change` makes it. Doing it again changes nothing, and says so."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one line of JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        for name, value in options.items():
            if isinstance(value, str) and not (value.strip() and is_storable(value)):
                raise CommandError(f"{name} must not be empty or contain a NUL character.")
            if name in ("name", "username") and len(value) > MAX_NAME:
                raise CommandError(f"{name} must have at most {MAX_NAME} characters.")
        try:
            with transaction.atomic():
                result, sentence = self.change(options)
        except LookupFailed as error:
            raise CommandError(str(error)) from None
        except IntegrityError:
            raise CommandError("Another row has this id or e-mail address. Nothing was changed.") from None
        self.stdout.write(json.dumps(result) if options["json"] else sentence)

    def change(self, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """What to print, as JSON and as a sentence. Raises LookupFailed, CommandError, and IntegrityError."""
        raise NotImplementedError

    @property
    def actor(self) -> Actor:
        return command_actor(type(self).__module__.rpartition(".")[2])

    @property
    def common(self) -> dict[str, Any]:
        """Keyword arguments of every function that changes something."""
        return {"actor": self.actor, "at": timezone.now()}


def parse_id(text: str | None) -> Any:
    found = parse_uuid(text) if text is not None else None
    if text is not None and found is None:
        raise CommandError(f"--id must be a UUID, not {text!r}.")
    return found


def check_email(text: str) -> str:
    if not is_email(text):
        raise CommandError(f"{text!r} is not an e-mail address.")
    return text
