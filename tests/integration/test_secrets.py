"""Prompts, answers and tokens stay out of everything that the processes print, count and show."""

import asyncio
import signal
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from common.client import Client, ask
from common.credentials import digest_of, make_token
from tests.processes import Sluice, free_port

SECRET = "zebraquartz7731"
TOKEN, WRONG_TOKEN = make_token(), make_token()
LONG: dict[str, Any] = {"max_tokens": 1000, "ignore_eos": True}

OTHER_MODEL = ask(SECRET)
OTHER_MODEL.model = SECRET
REFUSED = (
    OTHER_MODEL,
    ask(SECRET, sampling={"temperature": 7.0}),
    ask(SECRET, sampling={"structured_output": {"json_schema": '{"type": "' + SECRET}}),
    ask(f"{SECRET} " * 20_000),
    ask(messages=[{"role": SECRET, "content": SECRET}]),
)


async def fail(client: Client, request: Any, **options: Any) -> None:
    with pytest.raises(grpc.RpcError):
        await client.generate(request, **options)


async def test_no_prompt_answer_or_token_is_printed_or_counted_at_any_level(tmp_path: Path) -> None:
    config, metrics = tmp_path / "scheduler.toml", f"127.0.0.1:{free_port()}"
    config.write_text(f'[callers.acme]\ntoken_sha256 = "{digest_of(TOKEN)}"\n')
    scheduler = ["--config", str(config), "--log.level", "debug", "--metrics-listen", metrics]
    sluice = Sluice(scheduler_arguments=scheduler, worker_arguments=["--log.level", "debug"])
    await asyncio.to_thread(sluice.__enter__)
    try:
        async with Client(sluice.address, token=TOKEN) as client:
            prompt = ask(f"{SECRET} and more", sampling={"max_tokens": 60, "ignore_eos": True, "stop": [SECRET]})
            answer = await client.generate(prompt)
            for request in REFUSED:
                await fail(client, request)
            await fail(client, ask(SECRET, sampling=LONG), timeout_s=0.5)
            async with client.session() as session:
                session_text = "".join([each.chunk.text async for each in session.generate(prompt)])
            async with Client(sluice.address, token=WRONG_TOKEN) as stranger:
                await fail(stranger, ask(SECRET))
            lost = asyncio.create_task(fail(client, ask(SECRET, sampling={**LONG, "seed": 1}), timeout_s=20))
            await asyncio.sleep(0.5)  # whether it runs by then or not, it is to fail
            sluice.workers[0].popen.send_signal(signal.SIGKILL)
            await lost
        with await asyncio.to_thread(urllib.request.urlopen, f"http://{metrics}/metrics") as page:
            printed = page.read().decode()
        printed += "".join(each.log_path.read_text() for each in (sluice.scheduler, *sluice.workers))
    finally:
        sluice.__exit__(None, None, None)
    assert "request finished" in printed
    assert '"outcome": "ok"' in printed
    assert 'outcome="worker_lost"' in printed
    for secret in (SECRET, TOKEN, WRONG_TOKEN, answer.text, session_text):
        assert secret
        assert secret not in printed
