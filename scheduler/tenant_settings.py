"""The settings of tenants: whose share is how large, and where it ends."""

from typing import Annotated

from pydantic import Field

from common.settings import SettingsSection
from scheduler.core.quota import Quota

LONGEST_NAME = 64
TenantName = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


class QuotaSettings(SettingsSection):
    """What each tenant may use that has no settings of its own, calls that name no tenant together."""

    service_class: str | None = Field(None, description="Class of requests that name none; none: by prompt length.")
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Prompt and output tokens that a tenant may use per minute."
    )
    max_requests: int | None = Field(None, ge=1, description="Requests of a tenant that may wait and run at once.")
    max_sessions: int | None = Field(None, ge=1, description="GenerateSession calls of a tenant open at once.")

    def quota(self) -> Quota:
        """What the scheduler's core needs to know of it."""
        return Quota(self.tokens_per_minute, self.max_requests)


class TenantSettings(QuotaSettings):
    """What one tenant may use."""

    weight: float = Field(1.0, gt=0, description="Share of the engines under load, relative to other tenants.")
