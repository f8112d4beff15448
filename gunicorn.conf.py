"""How gunicorn serves the API: `gunicorn recoup.wsgi`. docs/operations.md lists the environment variables.

What gunicorn itself refuses, for example a request line over 8,190 bytes, gets gunicorn's own HTML page: it has no hook
for error pages, and no normal client sends such a request.
"""

import gc
import os
import shutil
import sys
import tempfile
from typing import Any

from recoup import safety, settings

# The workers of this master write their metrics here. The library reads the variable when it is imported. A reload
# keeps the folder; another master has its own.
if "prometheus_client" not in sys.modules:
    safety.refuse()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="recoup-metrics-")

from prometheus_client import multiprocess

from core.parent_process import exit_with_parent
from tasks.gateway import upstream

bind = f"{settings.HOST}:{settings.PORT}"
workers = settings.WEB_CONCURRENCY
worker_class = "recoup.worker.Worker"
# Workers are forks of a master that has imported everything, so the next ones of a reload answer at once. New code
# needs a new master: deploy/upgrade.sh.
preload_app = True
threads = settings.THREADS
timeout = 60
graceful_timeout = 10
keepalive = 15
# The control socket would be one file in the home directory for all services of a user.
control_socket_disable = True
logconfig_dict = {
    **settings.LOGGING,
    "loggers": {**settings.LOGGING["loggers"], "gunicorn.error": {"level": "INFO"}, "gunicorn.access": {}},
}
# Long lines and credentials reach the API, which says what is wrong with them.
limit_request_line = 8190
limit_request_field_size = 128 * 1024
limit_request_fields = 50


def on_starting(server: Any) -> None:
    # With `--user` the workers run as a different user.
    os.chown(os.environ["PROMETHEUS_MULTIPROC_DIR"], server.cfg.uid, server.cfg.gid)


def when_ready(server: Any) -> None:
    # What the collector never looks at stays in memory that all workers share.
    gc.collect()
    gc.freeze()
    if settings.STOP_WITH_PARENT:
        exit_with_parent()


def post_worker_init(worker: Any) -> None:
    from core.connections import keep_sqlite_files  # Django is set up only now
    from recoup.warm_up import warm_up
    from recoup.wsgi import django_application
    from tasks.runs import steps, waiting

    keep_sqlite_files()
    # Created now, so that two first requests cannot create two.
    upstream.client()
    upstream.probes()
    steps.threads()
    steps.background()
    # Waiting requests are answered when the worker is told to stop.
    waiting.waiting().is_ending = lambda: not worker.alive
    # In the thread that the first request gets.
    worker.tpool.submit(warm_up, django_application).result()


def child_exit(server: Any, worker: Any) -> None:
    multiprocess.mark_process_dead(worker.pid)


def on_exit(server: Any) -> None:
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)


def worker_exit(server: Any, worker: Any) -> None:
    from tasks.runs import steps  # Django is set up only now

    steps.finish()
    upstream.finish()
