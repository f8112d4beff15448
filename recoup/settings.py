"""Every environment variable is read here; docs/operations.md lists them."""

import zoneinfo
from pathlib import Path
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from environs import Env
from marshmallow.validate import Range

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"
VAR_DIR.mkdir(exist_ok=True)
DEVELOPMENT_SECRET = "django-insecure-for-a-trigger-dev-on-this-machine-only"  # noqa: S105  it is not secret
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")

# Time zones come from the locked tzdata, not from this machine.
zoneinfo.reset_tzpath(to=())

# A cache that hangs must not delay requests.
REDIS_OPTIONS = {"socket_connect_timeout": 0.2, "socket_timeout": 0.2, "health_check_interval": 30}

env = Env()

# --- Trigger.dev -----------------------------------------------------------------------------------------------------
TRIGGER_API_URL: str = env.str("TRIGGER_API_URL", "http://127.0.0.1:3040").rstrip("/")
TRIGGER_SECRET_KEY: str = env.str("TRIGGER_SECRET_KEY", "tr_prod_standin")
# Prefix of the deduplication keys of our schedules, which belong to a Trigger.dev project, not to an environment.
TRIGGER_NAMESPACE: str = env.str("TRIGGER_NAMESPACE", "")
# The task at Trigger.dev that our schedules start.
TRIGGER_TASK_IDENTIFIER: str = env.str("TRIGGER_TASK_IDENTIFIER", "customer-prompt-task")
# Tasks at Trigger.dev whose payload.accountId names the owner of a run, where tags and schedule do not.
TRIGGER_PAYLOAD_OWNER_TASKS: list[str] = env.list("TRIGGER_PAYLOAD_OWNER_TASKS", ["create-content"])
TRIGGER_IS_LOCAL = urlsplit(TRIGGER_API_URL).hostname in LOCAL_HOSTS
# The maximum seconds that a request waits for Trigger.dev.
REQUEST_DEADLINE: float = env.float("REQUEST_DEADLINE", 3.0)
# Calls per minute by all processes together.
TRIGGER_CALLS_PER_MINUTE: int = env.int("TRIGGER_CALLS_PER_MINUTE", 1000, validate=Range(1))

# Finished runs are deleted after this many days.
RUN_RETENTION_DAYS: int = env.int("RUN_RETENTION_DAYS", 400, validate=Range(1))
# Due times use the clock of PostgreSQL, which all machines share. Tests that travel in time use their own.
USE_DATABASE_CLOCK = True

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
SECRET_KEY: str = env.str("SECRET_KEY", DEVELOPMENT_SECRET)
API_KEY_SECRET: str = env.str("API_KEY_SECRET", SECRET_KEY)
if SECRET_KEY == DEVELOPMENT_SECRET and not TRIGGER_IS_LOCAL:
    raise ImproperlyConfigured(
        "SECRET_KEY is not set. The built-in one is public, so it only works with a Trigger.dev on this machine. "
        'Make one with: python3 -c "import secrets; print(secrets.token_urlsafe(50))"'
    )
# --- Bearer tokens of an OpenID-style provider; without an issuer none are accepted ----------------------------------
TOKEN_ISSUER: str = env.str("TOKEN_ISSUER", "")
TOKEN_AUDIENCE: str = env.str("TOKEN_AUDIENCE", "")
TOKEN_JWKS_URL: str = env.str("TOKEN_JWKS_URL", "")
TOKEN_PUBLIC_KEY: str = env.str("TOKEN_PUBLIC_KEY", "").replace("\\n", "\n")
TOKEN_ALGORITHMS: list[str] = env.list("TOKEN_ALGORITHMS", ["ES256", "RS256", "EdDSA"])
if not set(TOKEN_ALGORITHMS) <= {"ES256", "RS256", "EdDSA"}:
    raise ImproperlyConfigured(f"TOKEN_ALGORITHMS may be ES256, RS256 and EdDSA, not {','.join(TOKEN_ALGORITHMS)}.")
if TOKEN_ISSUER and not (TOKEN_AUDIENCE and (TOKEN_JWKS_URL or TOKEN_PUBLIC_KEY)):
    raise ImproperlyConfigured("TOKEN_ISSUER needs TOKEN_AUDIENCE, and TOKEN_JWKS_URL or TOKEN_PUBLIC_KEY.")

DEBUG = False
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", ["127.0.0.1", "localhost", "[::1]"])
HTTPS_ONLY: bool = env.bool("HTTPS_ONLY", False)
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS_ONLY
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS_ONLY else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS_ONLY
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS_ONLY else None

# --- The database ----------------------------------------------------------------------------------------------------
DATABASES = {"default": env.dj_db_url("DATABASE_URL", f"sqlite:///{VAR_DIR / 'recoup.sqlite3'}")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    DATABASES["default"]["OPTIONS"] = {
        "pool": {"min_size": 1, "max_size": 20, "timeout": 5},
        "options": "-c lock_timeout=5s -c statement_timeout=30s",
        # Without these, a query to a host that has vanished waits 15 minutes. Seconds, and milliseconds.
        "connect_timeout": 5,
        "tcp_user_timeout": 10_000,
        # Options in the URL win, for example sslmode.
        **DATABASES["default"].get("OPTIONS", {}),
    }
else:
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
    "django.contrib.admin",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "corsheaders",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "accounts",
    "tasks",
    "demo",
]
MIDDLEWARE = [
    "recoup.health.probes",
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
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
    "recoup.metrics.CountingMiddleware",
]
ROOT_URLCONF = "recoup.urls"
WSGI_APPLICATION = "recoup.wsgi.application"
AUTHENTICATION_BACKENDS = ["accounts.staff.StaffBackend"]
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
STATIC_URL = "static/"
# Static files are served from the installed packages, so collectstatic is not needed.
WHITENOISE_USE_FINDERS = True
APPEND_SLASH = False
USE_TZ = True
TIME_ZONE = "UTC"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": env.str("LOG_LEVEL", "INFO")},
    "loggers": {
        "django": {"handlers": ["stderr"], "propagate": False},
        # Errors of callers are counted in the metrics, not logged: callers could fill the log.
        "django.request": {"level": "ERROR"},
    },
}

# --- The API ---------------------------------------------------------------------------------------------------------
CORS_ALLOW_ALL_ORIGINS = True
CORS_ALLOW_METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE"]
CORS_ALLOW_HEADERS = ["accept", "authorization", "content-type", "idempotency-key", "if-none-match", "x-api-key"]
CORS_EXPOSE_HEADERS = ["etag", "retry-after", "idempotent-replayed"]
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
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {
        "deepLinking": True,
        "persistAuthorization": False,
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
