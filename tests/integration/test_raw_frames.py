"""What no gRPC library would send is refused clean as well, and never quoted."""

import pytest

from common.client import ask
from tests.fuzz import http2
from tests.integration.house import eventually, house
from tests.processes import Sluice

GENERATE = "/sluice.v1.InferenceService/Generate"
HELLO = ask("hello", sampling={"max_tokens": 2}).SerializeToString()
INVALID_ARGUMENT = 3
ANSWER_S = 5.0


@pytest.mark.parametrize("name", ["\x80\xff", "", "a" * 65, "a\tb"])
async def test_a_tenant_s_name_that_is_no_printable_ascii_is_refused(name: str) -> None:
    request = http2.OPEN + http2.call(GENERATE, ("sluice-tenant", name)) + http2.message(HELLO)
    async with house() as built:
        assert await http2.exchange(built.scheduler.port, request, answer_s=1.0) == [INVALID_ARGUMENT]
        assert built.engine.submitted == []


async def test_metadata_that_is_no_ascii_is_not_quoted_in_the_log() -> None:
    secret = "Bearer s3cr\xe9t"
    request = http2.OPEN + http2.call(GENERATE, ("authorization", secret)) + http2.message(HELLO)
    with Sluice() as sluice:
        port = int(sluice.address.rpartition(":")[2])
        await http2.exchange(port, request, answer_s=ANSWER_S)
        await eventually(lambda: any(each["event"] == "request finished" for each in sluice.scheduler.log()))
        log = sluice.scheduler.log_path.read_text(errors="replace")
    assert "s3cr" not in log
    assert "Traceback" not in log
