"""SQLite's own now() writes three digits of a second, and Django six or none: as texts they compare otherwise."""

from typing import Any

import django.utils.timezone
from django.db import migrations, models


def fill_digits(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "sqlite":
        schema_editor.execute(
            "UPDATE tasks_task SET created_at = CASE WHEN created_at GLOB '*.000' "
            "THEN substr(created_at, 1, length(created_at) - 4) ELSE created_at || '000' END "
            "WHERE created_at GLOB '*.[0-9][0-9][0-9]'"
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
