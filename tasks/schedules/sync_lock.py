"""Only one `sync_schedules` runs at a time. The lock ends with its process, however that ends.

On PostgreSQL it is an advisory lock of a transaction that stays open, and holds nothing else: behind pgbouncer a lock
of the session would stay with a connection that others use. With SQLite it is a locked file.
"""

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.db import connection

# Any number that nothing else in this database uses.
LOCK_ID = 7_226_001


@contextmanager
def sync_lock(tries: Iterable[None] = ()) -> Iterator[bool]:
    """Whether this process has the lock. It does not wait, except as long as `tries` goes on."""
    lock = advisory_lock if connection.vendor == "postgresql" else file_lock
    with lock(tries) as is_locked:
        yield is_locked


@contextmanager
def advisory_lock(tries: Iterable[None]) -> Iterator[bool]:
    # A connection of its own: closing a pooled one would return it to the pool with its lock.
    own = connection.copy()
    own.settings_dict["OPTIONS"].pop("pool", None)
    try:
        own.set_autocommit(False)

        def take() -> bool:
            with own.cursor() as cursor:
                cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK_ID])
                return bool(cursor.fetchone()[0])

        yield take() or any(take() for _ in tries)
    finally:
        own.close()


@contextmanager
def file_lock(tries: Iterable[None]) -> Iterator[bool]:
    """The file is never removed: two processes could then lock two files of the same name."""
    path = Path(f"{connection.settings_dict['NAME']}.sync-lock")
    with path.open("w") as file:

        def take() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        yield take() or any(take() for _ in tries)
