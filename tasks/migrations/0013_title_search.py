"""Indexes by which staff find a part of a title, and deleted tasks, among a million tasks."""

from typing import Any

from django.db import migrations, models


def make_index(apps: Any, schema_editor: Any) -> None:
    """Only here, and not in the model, because SQLite has no such index. The owner of the database may create it."""
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
        # Writes go on meanwhile. One that was interrupted left an invalid index behind.
        schema_editor.execute("SET statement_timeout = 0")
        schema_editor.execute("SET lock_timeout = 0")
        schema_editor.execute("DROP INDEX CONCURRENTLY IF EXISTS task_title_part")
        # The expression of Django's `icontains`.
        expression = "USING gin (UPPER(title::text) gin_trgm_ops)"
        schema_editor.execute(f"CREATE INDEX CONCURRENTLY task_title_part ON tasks_task {expression}")
        schema_editor.execute("RESET statement_timeout")
        schema_editor.execute("RESET lock_timeout")


def drop_index(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP INDEX task_title_part")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("tasks", "0012_missed_run_index")]

    operations = [
        migrations.RunPython(make_index, drop_index),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("deleted_at__isnull", False)), fields=["-created_at", "-id"], name="task_deleted"
            ),
        ),
    ]
