"""Where the admin API may listen."""

import pytest
from pydantic import ValidationError

from common.credentials import digest_of, make_token
from scheduler.config import SchedulerSettings

CALLERS = {"operator": {"token_sha256": digest_of(make_token()), "rights": ["admin"]}}
TLS = {"certificate": "cert.pem", "key": "key.pem"}


@pytest.mark.parametrize("given", [{}, {"admin_listen": ""}, {"admin_listen": "[::1]:0"}], ids=str)
def test_on_this_machine_it_needs_nothing_more(given: dict[str, str]) -> None:
    SchedulerSettings.model_validate(given)


def test_other_machines_are_let_in_with_tls_and_callers() -> None:
    SchedulerSettings.model_validate({"admin_listen": "0.0.0.0:50052", "tls": TLS, "callers": CALLERS})


@pytest.mark.parametrize(
    ("given", "missing"),
    [({"tls": TLS}, "callers"), ({"insecure_listen": True}, "callers"), ({"callers": CALLERS}, "tls.certificate")],
    ids=["no callers", "in the clear without callers", "no TLS"],
)
def test_other_machines_are_not_let_in_without_both(given: dict[str, object], missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        SchedulerSettings.model_validate({"admin_listen": "0.0.0.0:50052", **given})
