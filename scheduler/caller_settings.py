"""The settings of callers: how each is known, for whom it speaks and what it may do."""

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from common.security_settings import TokenDigest
from common.settings import SettingsSection
from scheduler.caller import Caller, Right
from scheduler.tenant_settings import TenantName

ANY_TENANT: Final = "*"
CallerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class CallerSettings(SettingsSection):
    """One caller, known by a token or by a client certificate."""

    token_sha256: TokenDigest | None = Field(None, description="SHA-256 of its token, as sluice token prints it.")
    certificate: str | None = Field(None, min_length=1, description="A name in its client certificate, instead.")
    tenant: TenantName | None = Field(None, description="Whom it speaks for; unset: the caller's name; *: anybody.")
    classes: list[str] | None = Field(None, description="Service classes that it may use; unset: every class.")
    rights: list[Right] = Field([Right.GENERATE], description="What it may do: generate, admin.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.token_sha256 is None) == (self.certificate is None):
            raise ValueError("should have either token_sha256 or certificate")
        return self

    def caller(self, name: str) -> Caller:
        """Return the caller, known under this name in the settings."""
        return Caller(
            tenant="" if self.tenant == ANY_TENANT else self.tenant or name,
            rights=frozenset(self.rights),
            classes=None if self.classes is None else frozenset(self.classes),
            any_tenant=self.tenant == ANY_TENANT,
        )
