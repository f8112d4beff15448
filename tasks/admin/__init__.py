"""The admin site of tasks. Every write goes through `tasks.writes`, as in the API."""

import tasks.admin.index
import tasks.admin.jobs
import tasks.admin.runs
import tasks.admin.tasks  # noqa: F401  Django finds what they register
