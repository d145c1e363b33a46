"""What tenants may use: tokens per minute, and requests at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from scheduler.core.request import Request

MINUTE_S = 60.0
UNKNOWN_RETRY_S = 1.0
SWEEP_TENANTS = 4096


@dataclass(frozen=True, slots=True)
class Quota:
    """A tenant's limits; None: no limit.

    Attributes:
        tokens_per_minute: Prompt and output tokens; as many may be used at once after a quiet minute.
        max_requests: Requests that wait or run at once.

    """

    tokens_per_minute: int | None = None
    max_requests: int | None = None


@dataclass(frozen=True, slots=True)
class Excess:
    """A quota that a request does not fit into.

    Attributes:
        kind: Which one.
        limit: Its size.
        retry_after_s: When it has room again; of requests at once a guess.

    """

    kind: Literal["tokens_per_minute", "max_requests", "max_sessions"]
    limit: int
    retry_after_s: float


@dataclass(slots=True)
class _Account:
    quota: Quota
    tokens: float
    filled_s: float
    requests: int = 0


@dataclass(slots=True)
class Quotas:
    """Every tenant's use.

    Tokens flow into a bucket that holds a minute's worth. A request is let in when the bucket has what it is expected
    to use, or is full, and the account is settled with what it did use: an answer longer than expected is paid for by
    the requests that follow.
    """

    by_tenant: Mapping[str, Quota] = field(default_factory=dict)
    others: Quota = field(default_factory=Quota)
    _accounts: dict[str, _Account] = field(default_factory=dict, init=False)
    _charged: dict[str, int] = field(default_factory=dict, init=False)

    def excess(self, request: Request, expected_tokens: int, now: float) -> Excess | None:
        """The quota that the request exceeds; None: it fits. ``expected_tokens``: prompt and all output."""
        quota = self._quota(request.tenant)
        account = self._accounts.get(request.tenant)
        if account and quota.max_requests is not None and account.requests >= quota.max_requests:
            return Excess("max_requests", quota.max_requests, UNKNOWN_RETRY_S)
        if account and quota.tokens_per_minute is not None:
            missing = min(expected_tokens, quota.tokens_per_minute) - self._tokens(account, now)
            if missing > 0:
                return Excess(
                    "tokens_per_minute", quota.tokens_per_minute, missing * MINUTE_S / quota.tokens_per_minute
                )
        return None

    def enter(self, request: Request, expected_tokens: int, now: float) -> None:
        """The request waits or runs from now on."""
        quota = self._quota(request.tenant)
        if quota == Quota():
            return
        account = self._accounts.get(request.tenant)
        if account is None:
            self._sweep(now)
            account = self._accounts[request.tenant] = _Account(quota, float(quota.tokens_per_minute or 0), now)
        account.tokens = self._tokens(account, now) - expected_tokens
        account.filled_s = now
        account.requests += 1
        self._charged[request.request_id] = expected_tokens

    def leave(self, request: Request, used_tokens: int | None) -> None:
        """The request is over. ``used_tokens``: prompt and all output; None: unknown, as much as was expected."""
        charged = self._charged.pop(request.request_id, None)
        if charged is None:
            return
        account = self._accounts[request.tenant]
        account.requests -= 1
        if used_tokens is not None:
            account.tokens += charged - used_tokens

    def change(self, tenant: str | None, quota: Quota, now: float) -> None:
        """Give a tenant a quota of its own, or another one; None: all those that have none of their own.

        Tokens used stay used. Of requests at once those count that came while the tenant had a quota.
        """
        if tenant is None:
            self.others = quota
        else:
            self.by_tenant = {**self.by_tenant, tenant: quota}
        for name, account in self._accounts.items():
            had_rate, tokens = account.quota.tokens_per_minute is not None, self._tokens(account, now)
            account.quota = self._quota(name)
            account.tokens = tokens if had_rate else float(account.quota.tokens_per_minute or 0)
            account.filled_s = now

    def _quota(self, tenant: str) -> Quota:
        return self.by_tenant.get(tenant, self.others)

    def _tokens(self, account: _Account, now: float) -> float:
        """What the bucket holds now; below 0 when more was used than expected."""
        rate = account.quota.tokens_per_minute
        if rate is None:
            return 0.0
        return min(rate, account.tokens + (now - account.filled_s) * rate / MINUTE_S)

    def _sweep(self, now: float) -> None:
        """Forget tenants that nothing need be remembered of, so that ever new names cost no memory."""
        if len(self._accounts) < SWEEP_TENANTS:
            return
        for tenant, account in list(self._accounts.items()):
            if not account.requests and self._tokens(account, now) >= (account.quota.tokens_per_minute or 0):
                del self._accounts[tenant]
