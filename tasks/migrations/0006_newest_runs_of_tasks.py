from typing import Any

from django.db import migrations, models


def poll_again(apps: Any, schema_editor: Any) -> None:
    """The next first poll of a task fills the new columns."""
    apps.get_model("tasks", "Task").objects.exclude(polled_at=None).update(polled_at=None, next_poll_at=None)


class Migration(migrations.Migration):
    dependencies = [("tasks", "0005_stored_runs")]

    operations = [
        migrations.AddField(
            model_name="task",
            name="recent_runs",
            field=models.TextField(blank=True, default="", editable=False),
        ),
        migrations.AddField(
            model_name="task",
            name="watched_poll_at",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.RunPython(poll_again, migrations.RunPython.noop, elidable=True),
    ]
