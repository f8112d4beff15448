"""The admin site of accounts. Staff are Django users and manage accounts here."""

import accounts.admin.accounts
import accounts.admin.keys
import accounts.admin.staff  # noqa: F401  Django finds what they register
