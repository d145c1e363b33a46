"""The GenerateSession calls that are open, and how many of them a tenant may have."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from scheduler.answering import Answering, Origin
from scheduler.config import SchedulerSettings
from scheduler.core.quota import UNKNOWN_RETRY_S, Excess
from scheduler.errors import from_excess
from scheduler.generate_session import GenerateSession


class OpenSessions:
    """Keeps the sessions, each from its opening to its end."""

    def __init__(self, settings: SchedulerSettings, answering: Answering) -> None:
        self._settings = settings
        self._answering = answering
        self._sessions: set[GenerateSession] = set()
        self._by_tenant: Counter[str] = Counter()

    @contextmanager
    def open(self, origin: Origin) -> Iterator[GenerateSession]:
        """Open a session for as long as the block lasts.

        Raises:
            SluiceError: Its caller may not, or its tenant has as many as it may.

        """
        tenant = origin.caller().tenant
        limit = self._settings.quota_of(tenant).max_sessions
        if limit is not None and self._by_tenant[tenant] >= limit:
            raise from_excess(Excess("max_sessions", limit, UNKNOWN_RETRY_S), tenant)
        session = GenerateSession(self._answering, origin)
        self._sessions.add(session)
        self._by_tenant[tenant] += 1
        try:
            yield session
        finally:
            self._close(session, tenant)

    def drain(self) -> None:
        """End sessions once their requests have ended."""
        for session in self._sessions:
            session.drain()

    def _close(self, session: GenerateSession, tenant: str) -> None:
        self._sessions.remove(session)
        session.close()
        self._by_tenant[tenant] -= 1
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]  # ever new names must cost no memory
