"""How an operator names an account: by its id, or by one of its e-mail addresses in any case."""

from accounts.models import Account
from core.text import parse_uuid


class UnknownAccount(Exception):
    """There is no such account."""


def account_named(text: str) -> Account:
    account_id = parse_uuid(text)
    accounts = (
        Account.objects.filter(pk=account_id) if account_id else Account.objects.filter(emails__email__iexact=text)
    )
    found = accounts.first()
    if found is None:
        raise UnknownAccount(f"There is no account with the id or the e-mail address {text!r}.")
    return found
