"""SQLite's own now() writes three digits of a second, and Django six: as texts the two do not compare as moments do."""

from typing import Any

import django.utils.timezone
from django.db import migrations, models


def fill_digits(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "sqlite":
        schema_editor.execute(
            "UPDATE tasks_task SET created_at = created_at || '000' WHERE created_at GLOB '*.[0-9][0-9][0-9]'"
        )


class Migration(migrations.Migration):
    dependencies = [
        ("tasks", "0003_idempotency_and_runs_by_hand"),
    ]

    operations = [
        migrations.AlterField(
            model_name="task",
            name="created_at",
            field=models.DateTimeField(default=django.utils.timezone.now, editable=False),
        ),
        migrations.RunPython(fill_digits, migrations.RunPython.noop),
    ]
