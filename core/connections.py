"""Database connections of a request that waits."""

from django.db import connections


def give_connections_back() -> None:
    """To the pool, for others. Django opens one again at the next query. Not inside a transaction."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
