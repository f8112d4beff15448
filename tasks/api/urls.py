from django.urls import re_path

from tasks.api.run_views import TaskRunsView
from tasks.api.views import PreviewView, TasksView

# A slash at the end is answered as without: a redirect would turn a POST into a GET.
urlpatterns = [
    re_path(r"^tasks/?$", TasksView.as_view(), name="tasks"),
    re_path(r"^tasks/preview/?$", PreviewView.as_view(), name="task-preview"),
    re_path(r"^tasks/runs/?$", TaskRunsView.as_view(), name="task-runs"),
]
