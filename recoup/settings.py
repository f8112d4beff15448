"""Every environment variable is read here; docs/operations.md lists them. `safety.py` refuses unsafe values."""

import logging
import zoneinfo
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.templatetags.static import static
from environs import Env
from marshmallow.validate import OneOf, Range
from redis.backoff import NoBackoff
from redis.retry import Retry

BASE_DIR = Path(__file__).resolve().parent.parent
# Only SQLite, the demo and the stand-in write here, and make it when they do.
VAR_DIR = BASE_DIR / "var"
DEVELOPMENT_SECRET = "django-insecure-for-a-trigger-dev-on-this-machine-only"  # noqa: S105  it is not secret
STANDIN_SECRET_KEY = "tr_prod_standin"  # noqa: S105  nor is this
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")

# Time zones come from the locked tzdata, not from this machine.
zoneinfo.reset_tzpath(to=())

# A cache that hangs must not delay requests: one short try, and the process uses its own memory.
REDIS_OPTIONS = {
    "socket_connect_timeout": 0.2,
    "socket_timeout": 0.2,
    "health_check_interval": 30,
    "retry": Retry(NoBackoff(), 0),
}

env = Env()

# --- Trigger.dev -----------------------------------------------------------------------------------------------------
TRIGGER_API_URL: str = env.str("TRIGGER_API_URL", "http://127.0.0.1:3040").rstrip("/")
TRIGGER_SECRET_KEY: str = env.str("TRIGGER_SECRET_KEY", STANDIN_SECRET_KEY)
# Prefix of the deduplication keys of our schedules, which belong to a Trigger.dev project, not to an environment.
TRIGGER_NAMESPACE: str = env.str("TRIGGER_NAMESPACE", "")
# The task at Trigger.dev that our schedules start.
TRIGGER_TASK_IDENTIFIER: str = env.str("TRIGGER_TASK_IDENTIFIER", "customer-prompt-task")
# Tasks at Trigger.dev whose payload.accountId names the owner of a run, where tags and schedule do not.
TRIGGER_PAYLOAD_OWNER_TASKS: list[str] = env.list("TRIGGER_PAYLOAD_OWNER_TASKS", ["create-content"], subcast=str.strip)
# The maximum seconds that a request waits for Trigger.dev.
REQUEST_DEADLINE: float = env.float("REQUEST_DEADLINE", 3.0)
# Calls per minute by all processes together.
TRIGGER_CALLS_PER_MINUTE: int = env.int("TRIGGER_CALLS_PER_MINUTE", 1000, validate=Range(1))

# Finished runs are deleted after this many days.
RUN_RETENTION_DAYS: int = env.int("RUN_RETENTION_DAYS", 400, validate=Range(1))
# Due times use the clock of PostgreSQL, which all machines share. Tests that travel in time use their own.
USE_DATABASE_CLOCK = True

# --- What an account may have; an account's own limits win -----------------------------------------------------------
TASK_LIMIT: int = env.int("TASK_LIMIT", 500, validate=Range(0))
# Between two runs of a task; 0: no limit.
MIN_CADENCE_MINUTES: int = env.int("MIN_CADENCE_MINUTES", 0, validate=Range(0))
# Of the prompts of an account together. A list of tasks holds them all.
MAX_PROMPT_BYTES: int = env.int("MAX_PROMPT_BYTES", 5_000_000, validate=Range(1))

# --- The server, and the demo ----------------------------------------------------------------------------------------
HOST: str = env.str("HOST", "127.0.0.1")
PORT: int = env.int("PORT", 8000, validate=Range(1, 65535))
WEB_CONCURRENCY: int = env.int("WEB_CONCURRENCY", 2, validate=Range(1))
THREADS: int = env.int("THREADS", 32, validate=Range(1))
STANDIN_FOLDER = Path(env.str("STANDIN_FOLDER", str(VAR_DIR / "standin")))
# Bearer token for /metrics.
METRICS_TOKEN: str = env.str("METRICS_TOKEN", "")
# The demo sets it for the processes that it starts.
STOP_WITH_PARENT: bool = env.bool("STOP_WITH_PARENT", False)

# --- Rate limits of callers, per minute ------------------------------------------------------------------------------
# Requests with one credential, and requests without a valid credential from one address.
REQUESTS_PER_MINUTE: int = env.int("REQUESTS_PER_MINUTE", 3000, validate=Range(1))
AUTH_FAILURES_PER_MINUTE: int = env.int("AUTH_FAILURES_PER_MINUTE", 100, validate=Range(1))
# How many proxies in front of us add to X-Forwarded-For; with none, the header is ignored.
TRUSTED_PROXIES: int = env.int("TRUSTED_PROXIES", 0, validate=Range(0))

# --- Secrets and hosts -----------------------------------------------------------------------------------------------
SECRET_KEY: str = env.str("SECRET_KEY", "") or DEVELOPMENT_SECRET  # Django refuses an empty one
API_KEY_SECRET: str = env.str("API_KEY_SECRET", DEVELOPMENT_SECRET)
# Former secrets that still count, so that a secret can be changed without a failure.
SECRET_KEY_FALLBACKS: list[str] = env.list("SECRET_KEY_FALLBACKS", [], subcast=str.strip)
API_KEY_SECRET_FALLBACKS: list[str] = env.list("API_KEY_SECRET_FALLBACKS", [], subcast=str.strip)

# --- Bearer tokens of an OpenID-style provider; without an issuer none are accepted ----------------------------------
TOKEN_ISSUER: str = env.str("TOKEN_ISSUER", "")
TOKEN_AUDIENCE: str = env.str("TOKEN_AUDIENCE", "")
TOKEN_JWKS_URL: str = env.str("TOKEN_JWKS_URL", "")
TOKEN_PUBLIC_KEY: str = env.str("TOKEN_PUBLIC_KEY", "").replace("\\n", "\n")
TOKEN_ALGORITHMS: list[str] = env.list("TOKEN_ALGORITHMS", ["ES256", "RS256", "EdDSA"], subcast=str.strip)
# A user without an account: `link` finds the one that has its verified e-mail, `create` also makes a new one.
TOKEN_ACCOUNTS: str = env.str("TOKEN_ACCOUNTS", "", validate=OneOf(("", "link", "create")))
# Asked with the user's token for a verified e-mail, where the token has none.
TOKEN_USERINFO_URL: str = env.str("TOKEN_USERINFO_URL", "")

DEBUG = False
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", ["127.0.0.1", "localhost", "[::1]"], subcast=str.strip)
# Nothing is secret then: keys and staff of the demo work, and /metrics is open.
IS_DEVELOPMENT = urlsplit(TRIGGER_API_URL).hostname in LOCAL_HOSTS and {*LOCAL_HOSTS, "[::1]"} >= {*ALLOWED_HOSTS}
HTTPS_ONLY: bool = env.bool("HTTPS_ONLY", False)
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS_ONLY
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS_ONLY else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS_ONLY
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS_ONLY else None

# --- The database ----------------------------------------------------------------------------------------------------
DATABASES = {"default": env.dj_db_url("DATABASE_URL", f"sqlite:///{VAR_DIR / 'recoup.sqlite3'}")}
# Behind pgbouncer in transaction mode: nothing may be said to a connection that another transaction does not know.
PGBOUNCER: bool = env.bool("PGBOUNCER", False)
if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    timeouts = (
        {}
        if PGBOUNCER
        else {"options": "-c lock_timeout=5s -c statement_timeout=30s -c max_parallel_workers_per_gather=0"}
    )
    DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = PGBOUNCER
    DATABASES["default"]["OPTIONS"] = {
        # After a failed second the pool stops trying, until the next request asks: it must not pause when all is well.
        "pool": {"min_size": 1, "max_size": 20, "timeout": 2, "reconnect_timeout": 1},
        **timeouts,
        # Without these, a query to a host that has vanished waits 15 minutes. Seconds, and milliseconds.
        "connect_timeout": 5,
        "tcp_user_timeout": 10_000,
        # Options in the URL win, for example sslmode.
        **DATABASES["default"].get("OPTIONS", {}),
    }
    # A connection that a restart of the server has closed costs a round trip, not a request.
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
else:
    Path(DATABASES["default"]["NAME"]).parent.mkdir(parents=True, exist_ok=True)
    # A writer takes the lock at BEGIN: SQLite cannot wait for a lock later in a transaction.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 5,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
    }
    # Threads that write at once need a file: an in-memory database has one cache with table locks.
    DATABASES["default"]["TEST"] = {"NAME": VAR_DIR / "test.sqlite3"}

# One cache for all processes and machines. Without it each process has its own.
REDIS_URL: str = env.str("REDIS_URL", "")
CACHE_IS_SHARED = bool(REDIS_URL)
CACHES = {
    "default": {"BACKEND": "core.cache.TolerantRedisCache", "LOCATION": REDIS_URL, "OPTIONS": REDIS_OPTIONS}
    if REDIS_URL
    else {"BACKEND": "core.cache.LocalCache", "OPTIONS": {"MAX_ENTRIES": 20_000}},
}

# --- Django ----------------------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "corsheaders",
    "rest_framework",
    "axes",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "accounts",
    "tasks",
    "demo",
    "django_structlog",
    "recoup",
]
MIDDLEWARE = [
    "recoup.health.probes",
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "recoup.access_log.AccessLog",
    "core.middleware.private_responses",
    "corsheaders.middleware.CorsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    "core.middleware.admin_site",
    "recoup.metrics.CountingMiddleware",
    "core.errors.DatabaseErrors",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "recoup.urls"
WSGI_APPLICATION = "recoup.wsgi.application"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "accounts.staff.StaffBackend"]
# Ten wrong passwords for a user, or from an address: no login for a quarter of an hour. Counted in the cache.
AXES_HANDLER = "axes.handlers.cache.AxesCacheHandler"
AXES_FAILURE_LIMIT = 10
AXES_LOCKOUT_PARAMETERS = ["username", "ip_address"]
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_CLIENT_IP_CALLABLE = "accounts.api.throttling.network_of"
AXES_COOLOFF_MESSAGE = "Too many wrong passwords. Try again in 15 minutes, or ask an administrator."
AXES_VERBOSE = False
AXES_ENABLE_ADMIN = False
# Nothing comes from elsewhere, and no script is in a page.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "style-src": ["'self'", "'unsafe-inline'"],
        "object-src": ["'none'"],
        "base-uri": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    }
}
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
UNFOLD = {
    "SITE_TITLE": "Recoup Tasks",
    "SITE_HEADER": "Recoup Tasks",
    "SITE_URL": "/api/docs/",
    "SITE_FAVICONS": [{"rel": "icon", "href": lambda request: static("tasks/icon.svg")}],
    "DASHBOARD_CALLBACK": "tasks.admin.index.attention",
    "STYLES": [lambda request: static("tasks/admin.css")],
}
STATIC_URL = "static/"
# Static files are served from the installed packages, so collectstatic is not needed.
WHITENOISE_USE_FINDERS = True
APPEND_SLASH = False
USE_TZ = True
TIME_ZONE = "UTC"
# `json` or `text`.
LOG_FORMAT: str = env.str("LOG_FORMAT", "text" if IS_DEVELOPMENT else "json", validate=OneOf(("json", "text")))
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "core.log_lines.formatter", "style": LOG_FORMAT}},
    "filters": {"database": {"()": "core.log_lines.DatabaseErrorsInOneLine"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["database"]}},
    "root": {"handlers": ["stderr"], "level": env.str("LOG_LEVEL", "INFO")},
    "loggers": {
        "django": {"handlers": ["stderr"], "propagate": False},
        # The access log has a line for each request, also for one with a wrong Host.
        "django.request": {"level": "ERROR"},
        "django.security.DisallowedHost": {"level": "CRITICAL"},
        # Each request that fails is logged already.
        "psycopg.pool": {"level": "ERROR"},
        "axes": {"level": "ERROR"},
    },
}

# The proxy gives each request its id, or the service does.
DJANGO_STRUCTLOG_TRUST_UPSTREAM_REQUEST_ID = TRUSTED_PROXIES > 0
DJANGO_STRUCTLOG_IP_LOGGING_ENABLED = False
DJANGO_STRUCTLOG_STATUS_START_LOG_LEVEL = logging.DEBUG
DJANGO_STRUCTLOG_STATUS_4XX_LOG_LEVEL = DJANGO_STRUCTLOG_STATUS_5XX_LOG_LEVEL = logging.INFO

# --- The API ---------------------------------------------------------------------------------------------------------
CORS_ALLOW_ALL_ORIGINS = True
CORS_ALLOW_METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE"]
CORS_ALLOW_HEADERS = ["accept", "authorization", "content-type", "idempotency-key", "if-none-match", "x-api-key"]
CORS_ALLOW_HEADERS += ["x-requested-with", "mcp-protocol-version", "mcp-session-id", "last-event-id"]
CORS_EXPOSE_HEADERS = ["etag", "retry-after", "idempotent-replayed", "x-request-id"]
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["accounts.api.authentication.CredentialAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["accounts.api.permissions.IsAccount"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "core.json_io.JSONOnly",
    "DEFAULT_RENDERER_CLASSES": ["core.json_io.TolerantJSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["core.json_io.StrictJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "core.schema.ContractSchema",
    "DEFAULT_THROTTLE_CLASSES": ["accounts.api.throttling.CredentialThrottle"],
    "NUM_PROXIES": TRUSTED_PROXIES,
    "EXCEPTION_HANDLER": "core.errors.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Recoup Tasks",
    "DESCRIPTION": (
        "Scheduled tasks of the Recoup platform, and their runs at Trigger.dev.\n\n"
        "Send exactly one credential: an API key as `x-api-key`, or an API key or a token of your provider as "
        "`Authorization: Bearer`. An account sees its own tasks and runs, and with `account_id` those of an account it "
        "shares an organization with. An unknown parameter is an error. Dates are in UTC."
    ),
    "VERSION": "1.0.0",
    "SERVERS": [{"url": "/", "description": "This service"}],
    "OAS_VERSION": "3.1.0",
    "TAGS": [
        {"name": "tasks", "description": "Tasks, their schedules and their runs."},
        {"name": "accounts", "description": "Who am I."},
        {"name": "admins", "description": "Whether I may act for every account."},
        {"name": "organizations", "description": "The organizations of an account."},
        {"name": "artists", "description": "The artists that a task may have."},
        {"name": "keys", "description": "API keys by oneself."},
    ],
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {
        "deepLinking": True,
        # In the demo the key survives a reload. Elsewhere no browser keeps a credential.
        "persistAuthorization": IS_DEVELOPMENT,
        "tryItOutEnabled": True,
        "validatorUrl": None,
    },
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
    "COMPONENT_SPLIT_PATCH": False,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "PREPROCESSING_HOOKS": ["core.schema.drop_optional_slash"],
    "POSTPROCESSING_HOOKS": ["core.schema.drop_enum_ids"],
}
