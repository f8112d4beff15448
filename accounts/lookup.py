"""Finding an account by its id, or by one of its e-mail addresses in any case."""

from accounts.models import Account
from core.text import parse_uuid


class UnknownAccount(Exception):
    """No account has this id or e-mail address."""


def find_account(text: str) -> Account:
    account_id = parse_uuid(text)
    accounts = (
        Account.objects.filter(pk=account_id) if account_id else Account.objects.filter(emails__email__iexact=text)
    )
    found = accounts.first()
    if found is None:
        raise UnknownAccount(f"No account has the id or the e-mail address {text!r}.")
    return found
