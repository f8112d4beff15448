from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tasks", "0006_newest_runs_of_tasks"), ("accounts", "0001_initial")]

    operations = [
        migrations.RemoveConstraint("runrequest", "run_request_by_an_account_or_staff"),
        migrations.RenameField("runrequest", "asked_by", "requested_by"),
        migrations.RenameField("runrequest", "asked_by_staff", "requested_by_staff"),
        migrations.RenameField("runrequest", "asked_at", "requested_at"),
        migrations.AlterModelOptions("runrequest", {"ordering": ["-requested_at", "-id"]}),
        migrations.AddConstraint(
            "runrequest",
            models.CheckConstraint(
                condition=models.Q(requested_by__isnull=False) ^ ~models.Q(requested_by_staff=""),
                name="run_request_by_an_account_or_staff",
            ),
        ),
        migrations.CreateModel(
            "RunFeed",
            [
                ("account_id", models.UUIDField(primary_key=True, serialize=False)),
                ("polled_at", models.DateTimeField(null=True)),
                ("next_poll_at", models.DateTimeField()),
                ("watched_until", models.DateTimeField(db_index=True)),
            ],
        ),
        *(
            migrations.AddField("sharedpoll", name, models.DateTimeField(null=True))
            for name in ("newest_as_of", "newest_since", "newest_next_at")
        ),
        migrations.AddField("sharedpoll", "is_newest_cut", models.BooleanField(default=False)),
    ]
