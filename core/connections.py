"""Database connections: of a request that waits, one that keeps SQLite's files, and advice when none can be made."""

from typing import Any

from django.db import Error, InterfaceError, OperationalError, connection, connections

# The database is away, or a lock took too long. Anything else that it raises is a mistake of ours.
DATABASE_ERRORS = (OperationalError, InterfaceError)
PGBOUNCER_ADVICE = (
    "pgbouncer refuses our startup options: set PGBOUNCER=true, and the timeouts for the role: "
    "ALTER ROLE ... SET lock_timeout = '5s'; ALTER ROLE ... SET statement_timeout = '30s'."
)
_kept: list[Any] = []


def advice() -> str:
    """One sentence for an operator, where connecting shows what is wrong; else empty. The pool does not tell it."""
    own = connection.copy()
    own.settings_dict["OPTIONS"].pop("pool", None)
    try:
        own.ensure_connection()
    except Error as error:
        return PGBOUNCER_ADVICE if "unsupported startup parameter" in str(error) else ""
    finally:
        own.close()
    return ""


def keep_sqlite_files() -> None:
    """One idle connection for the life of the process.

    With the last connection SQLite removes its write-ahead files, and no read could make them again on a full disk.
    """
    if connection.vendor == "sqlite":
        kept = connection.copy()
        kept.inc_thread_sharing()
        with kept.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM sqlite_master")
        _kept.append(kept)


def give_connections_back() -> None:
    """To the pool, for others. Django opens one again at the next query. Not inside a transaction."""
    for opened in connections.all(initialized_only=True):
        if not opened.in_atomic_block:
            opened.close()
