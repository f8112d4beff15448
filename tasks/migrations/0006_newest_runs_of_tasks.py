from typing import Any

from django.db import migrations, models
from django.utils import timezone


def poll_again(apps: Any, schema_editor: Any) -> None:
    """Stored runs are copies. The next first poll of each task stores them again and fills the new columns."""
    for name in ("RunOwner", "Run"):
        apps.get_model("tasks", name).objects.all()._raw_delete(schema_editor.connection.alias)
    tasks = apps.get_model("tasks", "Task").objects
    tasks.filter(deleted_at=None).update(polled_at=None, next_poll_at=timezone.now())
    tasks.exclude(deleted_at=None).update(next_poll_at=None)


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
