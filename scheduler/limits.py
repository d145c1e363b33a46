"""The limits that operators change while the scheduler runs."""

from typing import Final

from pydantic import ValidationError

from common.rich_status import Violation
from scheduler.answering import Answering
from scheduler.config import MaxTokensSettings, SchedulerSettings
from scheduler.core.scheduler import Scheduler
from scheduler.errors import InvalidRequest
from sluice.v1 import admin_pb2

FIELDS: Final = frozenset(admin_pb2.Limits.DESCRIPTOR.fields_by_name)


class Limits:
    """Holds the limits, and tells those who keep to them."""

    def __init__(self, settings: SchedulerSettings, core: Scheduler, answering: Answering) -> None:
        self._settings = settings
        self._core = core
        self._answering = answering

    def message(self) -> admin_pb2.Limits:
        """Tell them."""
        return admin_pb2.Limits(
            max_queued_requests=self._core.max_queued_requests, max_tokens_cap=self._settings.max_tokens.cap
        )

    def update(self, request: admin_pb2.UpdateLimitsRequest) -> None:
        """Change those that the request means.

        Raises:
            InvalidRequest: The mask names another field, or a value is out of bounds.

        """
        new = self.message()
        for name in _meant(request):
            setattr(new, name, getattr(request.limits, name))
        try:
            max_tokens = MaxTokensSettings.model_validate(
                {**self._settings.max_tokens.model_dump(), "cap": new.max_tokens_cap}
            )
        except ValidationError as error:
            raise InvalidRequest([Violation("limits.max_tokens_cap", error.errors()[0]["msg"])]) from None
        self._settings = self._settings.model_copy(update={"max_tokens": max_tokens})
        self._core.max_queued_requests = new.max_queued_requests
        self._answering.obey(self._settings)


def _meant(request: admin_pb2.UpdateLimitsRequest) -> list[str]:
    if not request.HasField("update_mask"):
        return [field.name for field, _ in request.limits.ListFields()]
    if unknown := sorted(set(request.update_mask.paths) - FIELDS):
        raise InvalidRequest([Violation("update_mask", f"must name fields of Limits; got {unknown[0][:40]}")])
    return list(request.update_mask.paths)
