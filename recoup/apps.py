from django.apps import AppConfig


class RecoupConfig(AppConfig):
    name = "recoup"

    def ready(self) -> None:
        import recoup.checks  # noqa: F401  Django finds checks by their being imported
