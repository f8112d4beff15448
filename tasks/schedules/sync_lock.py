"""Only one `sync_schedules` runs at a time. The lock ends with its process, however that ends.

On PostgreSQL it is an advisory lock, which belongs to a connection. With SQLite it is a locked file, which belongs to a
process.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.db import connection

# Any number that nothing else in this database uses.
LOCK_ID = 7_226_001


@contextmanager
def sync_lock() -> Iterator[bool]:
    """Whether this process has the lock. It does not wait."""
    lock = advisory_lock if connection.vendor == "postgresql" else file_lock
    with lock() as is_locked:
        yield is_locked


@contextmanager
def advisory_lock() -> Iterator[bool]:
    # A connection of its own: closing a pooled one would return it to the pool with its lock.
    own = connection.copy()
    own.settings_dict["OPTIONS"].pop("pool", None)
    try:
        with own.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK_ID])
            (is_locked,) = cursor.fetchone()
        yield is_locked
    finally:
        own.close()


@contextmanager
def file_lock() -> Iterator[bool]:
    """The file is never removed: two processes could then lock two files of the same name."""
    path = Path(f"{connection.settings_dict['NAME']}.sync-lock")
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
