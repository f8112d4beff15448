"""The form of a task. It validates like the API, and it writes."""

from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.core.validators import MaxLengthValidator
from django.utils import timezone
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from accounts.access import artists_of
from accounts.events import Actor
from core.serializers import problem_of
from tasks import cron, limits, writes
from tasks.api.permissions import ArtistInReach
from tasks.cron import zones
from tasks.limits import MAX_PROMPT, MAX_TITLE


def check_text(text: str, *, is_long: bool) -> None:
    problem = problem_of(text, is_long=is_long)
    if problem:
        raise forms.ValidationError(f"It {problem}")


class TaskForm(forms.ModelForm):
    """Validates a schedule and a time zone like the API.

    It also writes: a refusal of Trigger.dev is then an error of the form, and nothing that was typed is lost.
    """

    actor: Actor  # set by TaskAdmin.get_form

    def clean(self) -> dict[str, Any]:
        values = dict(super().clean() or self.cleaned_data)
        self.check_artist(values)
        if not self.errors:
            try:
                self.write(values)
            except writes.TaskGone:
                raise forms.ValidationError("This task was deleted meanwhile.") from None
            except (limits.PlanLimit, limits.TooManyBytes) as limit:
                raise forms.ValidationError(str(limit)) from None
            except writes.ScheduleRefused as refusal:
                raise forms.ValidationError(f"Trigger.dev refuses the schedule. {refusal}") from None
        return values

    def check_artist(self, values: dict[str, Any]) -> None:
        """The rule of the API. Staff act for the account, so no right of an admin is lent to it."""
        account: Any = values.get("account") or (None if self.instance._state.adding else self.instance.account)
        artist: Any = values.get("artist_account")
        is_new = self.instance._state.adding or "artist_account" in self.changed_data
        if account is None or artist is None or not is_new:
            return
        artist_id: UUID = artist.pk
        if not artists_of(account.pk, any_artist=False).filter(pk=artist_id).exists():
            self.add_error("artist_account", ArtistInReach.message)

    def write(self, values: dict[str, Any]) -> None:
        if self.instance._state.adding:
            writes.create_task({"id": self.instance.pk, **values}, actor=self.actor, at=timezone.now())
        else:
            changes = {name: values[name] for name in self.changed_data}
            writes.update_task(self.instance, changes, actor=self.actor, at=timezone.now())

    class Meta:
        widgets: ClassVar = {
            "title": UnfoldAdminTextInputWidget,
            "prompt": UnfoldAdminTextareaWidget,
            "timezone": UnfoldAdminTextInputWidget(attrs={"list": "time-zones", "autocomplete": "off"}),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, maximum, is_long in (("title", MAX_TITLE, False), ("prompt", MAX_PROMPT, True)):
            if name in self.fields:
                self.fields[name].validators += [MaxLengthValidator(maximum), partial(check_text, is_long=is_long)]

    def clean_schedule(self) -> str:
        schedule: str = self.cleaned_data["schedule"]
        try:
            cron.check(schedule)
        except cron.CronError as error:
            raise forms.ValidationError(str(error)) from None
        return schedule

    def clean_timezone(self) -> str:
        zone: str = self.cleaned_data["timezone"]
        try:
            zones.check(zone)
        except zones.ZoneError as error:
            raise forms.ValidationError(str(error)) from None
        return zone

    def clean_model(self) -> str | None:
        return self.cleaned_data["model"] or None
