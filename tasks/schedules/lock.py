"""One `sync_schedules` at a time, by a lock that ends with its process, however that ends.

On PostgreSQL an advisory lock, which belongs to a connection; beside SQLite a locked file, which belongs to a process.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.db import connection

# Any number will do, as long as nothing else in this database uses it.
LOCK = 7_226_001


@contextmanager
def only_one() -> Iterator[bool]:
    """Whether the lock is ours; it is not waited for."""
    lock = advisory_lock if connection.vendor == "postgresql" else file_lock
    with lock() as is_ours:
        yield is_ours


@contextmanager
def advisory_lock() -> Iterator[bool]:
    # On a connection of its own, and none of the pool: to close that one would give it back with its lock.
    own = connection.copy()
    own.settings_dict["OPTIONS"].pop("pool", None)
    try:
        with own.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
            (is_ours,) = cursor.fetchone()
        yield is_ours
    finally:
        own.close()


@contextmanager
def file_lock() -> Iterator[bool]:
    """The file stays: to remove it would let two processes lock two files of one name."""
    path = Path(f"{connection.settings_dict['NAME']}.sync-lock")
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
