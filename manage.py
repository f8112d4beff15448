#!/usr/bin/env python3
"""The command line of the project: `manage.py help` lists what it can do.

Exit status: 1 something failed, 4 the database does not answer, 5 it is not migrated, 130 Ctrl-C.
"""

import os
import sys

DATABASE_AWAY, NOT_MIGRATED, INTERRUPTED = 4, 5, 130


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recoup.settings")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
        from django.db import OperationalError, ProgrammingError
        from environs import EnvError

        from core.output import use_tolerant_output
    except ImportError as error:
        sys.exit(f'{error}. Run "make setup", then .venv/bin/python manage.py.')
    use_tolerant_output()
    try:
        execute_from_command_line(sys.argv)
    except (ImproperlyConfigured, EnvError) as error:
        sys.exit(f"A setting is wrong. {error}")
    except (OperationalError, ProgrammingError):
        status, sentence = reason()
        if not sentence:
            raise
        end(status, sentence)
    except KeyboardInterrupt:
        end(INTERRUPTED, "Stopped.")
    finally:
        sys.stdout.flush()


def reason() -> tuple[int, str]:
    """Why a query failed; empty where the database answers and is migrated. A driver's message may hold secrets."""
    from django.db import DatabaseError, connection
    from django.db.migrations.executor import MigrationExecutor

    from core.connections import advice

    sentence = advice()
    if sentence:
        return 1, sentence
    try:
        executor = MigrationExecutor(connection)
        is_behind = bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    except DatabaseError:
        return DATABASE_AWAY, "The database does not answer. Is it running, and is DATABASE_URL right?"
    return (NOT_MIGRATED, "The database is not migrated. Run: manage.py migrate") if is_behind else (1, "")


def end(status: int, sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
