"""The roles of staff: viewer, operator and access manager."""

from typing import Any

from django.contrib.auth.management import create_permissions
from django.db import migrations

VIEWED = {
    "accounts": ("account", "accountemail", "apikey", "artistlink", "event", "identity", "membership", "organization"),
    "tasks": ("missedrun", "run", "runrequest", "task"),
}
ACTIONS = ("add", "change", "delete")
EVERYTHING_SEEN = [f"view_{model}" for models in VIEWED.values() for model in models]
MANAGED = ("account", "accountemail", "apikey", "artistlink", "identity", "membership", "organization")
ROLES = {
    "viewer": EVERYTHING_SEEN,
    "operator": [*EVERYTHING_SEEN, *(f"{action}_task" for action in ACTIONS)],
    "access manager": [*EVERYTHING_SEEN, *(f"{action}_{model}" for action in ACTIONS for model in MANAGED)],
}


def make_roles(apps: Any, schema_editor: Any) -> None:
    """Django makes permissions after all migrations, so those that are needed are made here."""
    for label in VIEWED:
        config = apps.get_app_config(label)
        before, config.models_module = getattr(config, "models_module", None), True
        create_permissions(config, apps=apps, verbosity=0)
        config.models_module = before
    permissions = apps.get_model("auth", "Permission").objects.filter(content_type__app_label__in=VIEWED)
    for name, codenames in ROLES.items():
        group, _ = apps.get_model("auth", "Group").objects.get_or_create(name=name)
        group.permissions.set(permissions.filter(codename__in=codenames))


class Migration(migrations.Migration):
    dependencies = [
        ("tasks", "0008_settled_column"),
        ("accounts", "0003_events_and_images"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [migrations.RunPython(make_roles, migrations.RunPython.noop)]
