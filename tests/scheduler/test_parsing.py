"""The door lets valid requests in, complete and with their terms, and says what is wrong with the others."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from google.protobuf.duration_pb2 import Duration

from scheduler.caller import Caller
from scheduler.class_settings import OwnClassSettings, PriorityClassSettings
from scheduler.config import MaxTokensSettings, SchedulerSettings
from scheduler.core.request import Priority, Request
from scheduler.errors import InvalidRequest, ModelNotFound, PermissionDenied
from scheduler.parsing import PIECE_TOKENS, Admission, Door, Terms
from scheduler.tenant_settings import QuotaSettings, TenantSettings
from sluice.v1 import generation_pb2, inference_pb2
from sluice.v1.generation_pb2 import SamplingParams, StructuredOutput, TokenIds
from sluice.v1.inference_pb2 import Chat, ChatMessage, CountTokensRequest, GenerateRequest, ServiceTargets
from sluice.worker.v1 import worker_pb2
from tests.scheduler.door_examples import served_model

HELLO = Chat(messages=[ChatMessage(role="user", content="Hello")])
SETTINGS = SchedulerSettings(
    max_tokens=MaxTokensSettings(default=500, cap=1000, over_cap="clamp"),
    high=PriorityClassSettings(prompt_tokens_below=10, max_tokens_cap=300),
    normal=PriorityClassSettings(prompt_tokens_below=100, max_tokens_cap=1000),
    low=PriorityClassSettings(max_tokens_cap=2000),
    classes={
        "chat": OwnClassSettings(priority="high", ttft_s=0.5, e2e_s=3.0, max_tokens_cap=700, default_deadline_s=7.0)
    },
    tenants={"acme": TenantSettings(service_class="chat")},
    other_tenants=QuotaSettings(),
)
REFUSING = SETTINGS.model_copy(update={"max_tokens": MaxTokensSettings(default=500, cap=1000, over_cap="refuse")})


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    door = Door(SETTINGS, served_model())
    yield door
    door.close()


@pytest.fixture(scope="module")
def refusing_door() -> Iterator[Door]:
    door = Door(REFUSING, served_model())
    yield door
    door.close()


async def admit(
    door: Door, message: GenerateRequest, *, call_time_left_s: float | None = None, tenant: str = ""
) -> Admission:
    return await door.admit(
        message, request_id="r1", arrival_s=100.0, call_time_left_s=call_time_left_s, caller=Caller(tenant)
    )


async def refusal(door: Door, message: GenerateRequest) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequest) as caught:
        await admit(door, message)
    return [(each.field, each.description) for each in caught.value.violations]


def ids(count: int, **fields: object) -> GenerateRequest:
    return GenerateRequest(token_ids=TokenIds(ids=[65] * count), **fields)  # type: ignore[arg-type]


async def test_greedy_sequences_would_all_be_the_same_and_are_refused(door: Door) -> None:
    with pytest.raises(InvalidRequest, match=r"sampling\.n: must be 1 at temperature 0"):
        await admit(door, GenerateRequest(prompt="x", sampling=SamplingParams(temperature=0, n=2)))


async def test_a_request_comes_out_complete(door: Door) -> None:
    message = GenerateRequest(
        token_ids=TokenIds(ids=[1, 2, 3]),
        sampling=SamplingParams(temperature=0.5, max_tokens=7, stop=["\n"], n=2),
        priority=generation_pb2.PRIORITY_LOW,
        time_budget=Duration(seconds=2),
        model="demo",
    )
    assert await admit(door, message, call_time_left_s=60.0) == Admission(
        Request("r1", Priority.LOW, 100.0, 102.0, 3, 7, sequences=2, service_class="low", partial=True),
        worker_pb2.Submit(
            request_id="r1",
            prompt_token_ids=[1, 2, 3],
            sampling=SamplingParams(
                temperature=0.5,
                top_p=0.9,
                top_k=0,
                min_p=0,
                repetition_penalty=1.1,
                presence_penalty=0,
                frequency_penalty=0,
                max_tokens=7,
                min_tokens=0,
                n=2,
                stop=["\n"],
            ),
        ),
        Terms(
            service_class="low",
            priority=generation_pb2.PRIORITY_LOW,
            class_reason=inference_pb2.CLASS_REASON_REQUESTED,
            targets=ServiceTargets(),
            max_tokens_rule=inference_pb2.MAX_TOKENS_RULE_REQUESTED,
            deadline_rule=inference_pb2.DEADLINE_RULE_TIME_BUDGET,
        ),
    )


async def test_a_bare_prompt_gets_every_default(door: Door) -> None:
    admission = await admit(door, GenerateRequest(prompt="Hi"))
    assert admission.request == Request("r1", Priority.HIGH, 100.0, 130.0, 3, 300, service_class="high")
    assert admission.submit.sampling == SamplingParams(
        temperature=0.7,
        top_p=0.9,
        top_k=0,
        min_p=0,
        repetition_penalty=1.1,
        presence_penalty=0,
        frequency_penalty=0,
        max_tokens=300,
        min_tokens=0,
        n=1,
    )
    assert admission.terms == Terms(
        service_class="high",
        priority=generation_pb2.PRIORITY_HIGH,
        class_reason=inference_pb2.CLASS_REASON_PROMPT_LENGTH,
        targets=ServiceTargets(),
        max_tokens_rule=inference_pb2.MAX_TOKENS_RULE_CLASS_CAP,
        deadline_rule=inference_pb2.DEADLINE_RULE_DEFAULT,
    )


@pytest.mark.parametrize(
    ("prompt_tokens", "priority"),
    [(1, Priority.HIGH), (9, Priority.HIGH), (10, Priority.NORMAL), (99, Priority.NORMAL), (100, Priority.LOW)],
)
async def test_the_prompts_length_chooses_the_priority_that_nobody_named(
    door: Door, prompt_tokens: int, priority: Priority
) -> None:
    assert (await admit(door, ids(prompt_tokens))).request.priority == priority


async def test_a_class_that_was_asked_for_is_given_with_all_that_it_is_entitled_to(door: Door) -> None:
    admission = await admit(door, ids(2000, service_class="chat"))
    request, terms = admission.request, admission.terms
    assert (request.class_name, request.priority, request.max_tokens) == ("chat", Priority.HIGH, 500)
    assert request.deadline_s == 107.0
    assert terms.class_reason == inference_pb2.CLASS_REASON_REQUESTED
    assert terms.targets.end_to_end == Duration(seconds=3)


@pytest.mark.parametrize(
    ("message", "tenant", "field", "why"),
    [
        (ids(5, service_class="chat"), "", "service_class", "got chat"),
        (ids(5, priority=generation_pb2.PRIORITY_HIGH), "", "priority", "got high"),
        (ids(5), "acme", "service_class", "the tenant's is chat"),
        (ids(5), "", "service_class", "a prompt of this length is high"),
    ],
)
async def test_a_class_that_its_caller_may_not_use_is_denied(
    door: Door, message: GenerateRequest, tenant: str, field: str, why: str
) -> None:
    caller = Caller(tenant, classes=frozenset({"low", "normal"}))
    with pytest.raises(PermissionDenied) as denied:
        await door.admit(message, request_id="r1", arrival_s=100.0, call_time_left_s=None, caller=caller)
    assert str(denied.value) == f"{field}: must be one of low, normal; {why}"
    assert denied.value.metadata == {"field": field}


async def test_a_tenants_class_holds_where_the_request_names_none(door: Door) -> None:
    own = await admit(door, ids(5), tenant="acme")
    assert (own.request.class_name, own.request.tenant) == ("chat", "acme")
    assert own.terms.class_reason == inference_pb2.CLASS_REASON_TENANT
    named = await admit(door, ids(5, priority=generation_pb2.PRIORITY_LOW), tenant="acme")
    assert named.request.class_name == "low"
    other = await admit(door, ids(5), tenant="other")
    assert (other.request.class_name, other.request.tenant) == ("high", "other")


@pytest.mark.parametrize(
    ("message", "violation"),
    [
        (ids(5, service_class="chats"), "must be one of high, normal, low, chat; got chats"),
        (ids(5, service_class="low", priority=generation_pb2.PRIORITY_LOW), "must be unset beside priority; got low"),
    ],
)
async def test_a_class_that_is_none_is_refused(door: Door, message: GenerateRequest, violation: str) -> None:
    assert await refusal(door, message) == [("service_class", violation)]


@pytest.mark.parametrize("prompt_tokens", [1, 50, 4000])
async def test_the_prompts_length_changes_no_class_that_was_named(door: Door, prompt_tokens: int) -> None:
    named = await admit(door, ids(prompt_tokens, service_class="chat"))
    entitled = await admit(door, ids(prompt_tokens), tenant="acme")
    assert named.request.class_name == entitled.request.class_name == "chat"


async def test_a_priority_without_a_bound_takes_every_prompt() -> None:
    door = Door(SETTINGS.model_copy(update={"normal": PriorityClassSettings()}), served_model())
    assert (await admit(door, ids(4000))).request.priority == Priority.NORMAL
    door.close()


@pytest.mark.parametrize("priority", list(Priority))
async def test_a_priority_that_was_asked_for_is_given(door: Door, priority: Priority) -> None:
    asked = generation_pb2.Priority.Value(f"PRIORITY_{priority.name}")
    admission = await admit(door, ids(50, priority=asked))
    assert admission.request.priority == priority
    assert admission.terms.priority == asked


@pytest.mark.parametrize(
    ("message", "max_tokens", "rule"),
    [
        (ids(50), 500, inference_pb2.MAX_TOKENS_RULE_DEFAULT),
        (ids(50, sampling=SamplingParams(max_tokens=999)), 999, inference_pb2.MAX_TOKENS_RULE_REQUESTED),
        (ids(50, sampling=SamplingParams(max_tokens=1001)), 1000, inference_pb2.MAX_TOKENS_RULE_CAP),
        (ids(5, sampling=SamplingParams(max_tokens=1001)), 300, inference_pb2.MAX_TOKENS_RULE_CLASS_CAP),
        (ids(4000, sampling=SamplingParams(max_tokens=1001)), 96, inference_pb2.MAX_TOKENS_RULE_CONTEXT),
        (ids(4095), 1, inference_pb2.MAX_TOKENS_RULE_CONTEXT),
    ],
)
async def test_max_tokens_is_the_lowest_limit(
    door: Door, message: GenerateRequest, max_tokens: int, rule: inference_pb2.MaxTokensRule.ValueType
) -> None:
    admission = await admit(door, message)
    assert admission.request.max_tokens == admission.submit.sampling.max_tokens == max_tokens
    assert admission.terms.max_tokens_rule == rule


@pytest.mark.parametrize(
    ("message", "bound"),
    [
        (ids(50, sampling=SamplingParams(max_tokens=1001)), "must be at most 1000, the deployment's cap; got 1001"),
        (
            ids(5, sampling=SamplingParams(max_tokens=301)),
            "must be at most 300, the cap of the request's service class; got 301",
        ),
    ],
)
async def test_a_deployment_may_refuse_what_is_over_a_cap(
    refusing_door: Door, message: GenerateRequest, bound: str
) -> None:
    assert await refusal(refusing_door, message) == [("sampling.max_tokens", bound)]


async def test_a_refusing_deployment_still_clamps_its_own_default_and_to_the_contexts_room(refusing_door: Door) -> None:
    assert (await admit(refusing_door, ids(5))).request.max_tokens == 300
    asked = ids(4090, sampling=SamplingParams(max_tokens=1000))
    assert (await admit(refusing_door, asked)).request.max_tokens == 6


@pytest.mark.parametrize(
    ("call_s", "budget", "deadline_s", "rule", "partial"),
    [
        (None, None, 130.0, inference_pb2.DEADLINE_RULE_DEFAULT, False),
        (10.0, None, 109.85, inference_pb2.DEADLINE_RULE_CALL, False),
        (10.0, Duration(seconds=20), 109.85, inference_pb2.DEADLINE_RULE_CALL, True),
        (10.0, Duration(nanos=500_000_000), 100.5, inference_pb2.DEADLINE_RULE_TIME_BUDGET, True),
    ],
)
async def test_the_deadline_is_the_earliest_and_a_time_budget_allows_a_partial_answer(
    door: Door,
    call_s: float | None,
    budget: Duration | None,
    deadline_s: float,
    rule: inference_pb2.DeadlineRule.ValueType,
    partial: bool,
) -> None:
    admission = await admit(door, ids(5, time_budget=budget), call_time_left_s=call_s)
    assert admission.request.deadline_s == pytest.approx(deadline_s)
    assert admission.terms.deadline_rule == rule
    assert admission.request.partial is partial


@pytest.mark.parametrize(
    ("message", "field", "description"),
    [
        (GenerateRequest(), "input", "must be one of prompt, chat and token_ids; none is set"),
        (GenerateRequest(prompt=""), "prompt", "must not be empty"),
        (GenerateRequest(token_ids=TokenIds()), "token_ids", "must not be empty"),
        (GenerateRequest(chat=Chat()), "chat.messages", "must not be empty"),
        (
            GenerateRequest(token_ids=TokenIds(ids=[0, 259, 1, 260, 999])),
            "token_ids.ids[3]",
            "must be below 260, the size of the vocabulary; got 260",
        ),
        (ids(4096), "token_ids", "must have at most 4095 tokens, one less than the model's context; got 4096"),
        (
            GenerateRequest(prompt="x" * 4095),
            "prompt",
            "at most 4095 tokens, one less than the model's context; got 4096",
        ),
        (
            GenerateRequest(chat=Chat(messages=[ChatMessage(role="user", content="x" * 5000)])),
            "chat",
            "must have at most 4095 tokens",
        ),
        (ids(5, priority=7), "priority", "must be a Priority, 0 to 3; got 7"),
        (ids(5, time_budget=Duration()), "time_budget", "must be above 0 s; got 0 s"),
        (ids(5, time_budget=Duration(seconds=-3)), "time_budget", "must be above 0 s; got -3 s"),
        (ids(5, time_budget=Duration(seconds=1, nanos=-1)), "time_budget", "must be a valid Duration"),
        (ids(5, sampling=SamplingParams(temperature=-1)), "sampling.temperature", "must be in [0, 2]; got -1"),
        (ids(5, sampling=SamplingParams(max_tokens=0)), "sampling.max_tokens", "must be at least 1; got 0"),
        (
            ids(5, sampling=SamplingParams(min_tokens=11, max_tokens=10)),
            "sampling.min_tokens",
            "must be at most 10, the effective max_tokens; got 11",
        ),
        (
            ids(4090, sampling=SamplingParams(min_tokens=7)),
            "sampling.min_tokens",
            "must be at most 6, the effective max_tokens; got 7",
        ),
        (
            ids(5, sampling=SamplingParams(structured_output=StructuredOutput(json_schema='{"type": 1}'))),
            "sampling.structured_output.json_schema",
            "must be a JSON schema; at $.type",
        ),
    ],
)
async def test_what_is_wrong_is_named_with_bound_and_value(
    door: Door, message: GenerateRequest, field: str, description: str
) -> None:
    ((found_field, found_description),) = await refusal(door, message)
    assert found_field == field
    assert description in found_description


async def test_several_faults_are_told_at_once(door: Door) -> None:
    message = GenerateRequest(
        chat=Chat(messages=[ChatMessage(role="robot", content="x")]),
        sampling=SamplingParams(top_p=2),
        priority=9,  # type: ignore[arg-type]
        time_budget=Duration(),
    )
    fields = [field for field, _ in await refusal(door, message)]
    assert fields == ["sampling.top_p", "priority", "time_budget", "chat.messages[0].role"]


async def test_no_error_repeats_what_was_said(door: Door) -> None:
    secret = "the secret of the prompt " * 400
    for message in (
        GenerateRequest(prompt=secret),
        GenerateRequest(prompt=secret, sampling=SamplingParams(stop=[secret] * 20)),
        GenerateRequest(chat=Chat(messages=[ChatMessage(role="user", content=secret)])),
    ):
        assert "secret of the prompt" not in str(await refusal(door, message))


async def test_another_model_is_not_found(door: Door) -> None:
    with pytest.raises(ModelNotFound, match="model other is not served here; demo is"):
        await admit(door, GenerateRequest(prompt="Hi", model="other"))


async def test_chat_needs_a_template_and_prompts_do_not() -> None:
    door = Door(SETTINGS, served_model(None))
    assert await refusal(door, GenerateRequest(chat=HELLO)) == [
        ("chat", "must not be used: the model has no chat template")
    ]
    assert (await admit(door, GenerateRequest(prompt="Hi"))).request.prompt_tokens == 3
    assert not door.model_info().supports_chat
    door.close()


async def test_half_a_surrogate_pair_is_refused_where_it_stands(door: Door) -> None:
    tool = inference_pb2.Tool(name="f", parameters_json=r'{"description": "\ud83d"}')
    ((field, _),) = await refusal(door, GenerateRequest(chat=Chat(messages=HELLO.messages, tools=[tool])))
    assert field == "chat.tools[0].parameters_json"


async def test_counting_gives_the_ids_that_generating_reads(door: Door) -> None:
    admission = await admit(door, GenerateRequest(chat=HELLO))
    counted = await door.count(CountTokensRequest(chat=HELLO, return_ids=True))
    assert list(counted.token_ids) == list(admission.submit.prompt_token_ids)
    assert counted.tokens == admission.request.prompt_tokens
    assert counted.room_tokens == 4096 - counted.tokens
    assert counted.priority == admission.terms.priority


async def test_counting_takes_prompts_that_are_too_long(door: Door) -> None:
    counted = await door.count(CountTokensRequest(prompt="x" * 5000))
    assert (counted.tokens, counted.room_tokens) == (5001, 0)
    assert not counted.token_ids
    assert counted.priority == generation_pb2.PRIORITY_LOW


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (CountTokensRequest(), "input"),
        (CountTokensRequest(prompt=""), "prompt"),
        (CountTokensRequest(token_ids=TokenIds(ids=[260])), "token_ids.ids[0]"),
    ],
)
async def test_counting_refuses_what_generating_refuses(door: Door, message: CountTokensRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await door.count(message)
    assert [each.field for each in caught.value.violations] == [field]


async def test_the_event_loop_runs_on_while_a_long_prompt_is_read() -> None:
    door = Door(SETTINGS, served_model(context_tokens=10_000_000))
    reading = asyncio.create_task(admit(door, GenerateRequest(prompt="long " * 100_000)))
    turns = 0
    while not reading.done():
        turns += 1
        await asyncio.sleep(0.001)
    assert (await reading).request.prompt_tokens == 500_001
    assert turns > 20
    door.close()


async def test_what_was_given_to_a_door_that_closes_is_still_read() -> None:
    door = Door(SETTINGS, served_model())
    reading = [asyncio.create_task(admit(door, GenerateRequest(prompt="Hi"))) for _ in range(20)]
    await asyncio.sleep(0)
    door.close()
    assert len(await asyncio.gather(*reading)) == 20


def test_the_model_is_described_with_its_defaults_and_limits(door: Door) -> None:
    info = door.model_info()
    assert (info.model, info.context_tokens, info.vocabulary_size) == ("demo", 4096, 260)
    assert info.default_sampling.temperature == 0.7
    assert info.default_sampling.max_tokens == 500
    assert info.max_tokens_cap == 1000
    assert info.supports_chat
    high, normal, low, chat = info.service_classes
    assert [each.name for each in info.service_classes] == ["high", "normal", "low", "chat"]
    assert [each.priority for each in (high, normal, low, chat)] == [
        generation_pb2.PRIORITY_HIGH,
        generation_pb2.PRIORITY_NORMAL,
        generation_pb2.PRIORITY_LOW,
        generation_pb2.PRIORITY_HIGH,
    ]
    assert [each.prompt_tokens_below for each in (high, normal)] == [10, 100]
    assert not low.HasField("prompt_tokens_below")
    assert not chat.HasField("prompt_tokens_below")
    assert [each.max_tokens_cap for each in (high, normal, low, chat)] == [300, 1000, 1000, 700]
    deadlines_s = [each.default_deadline.ToTimedelta().total_seconds() for each in (high, normal, low, chat)]
    assert deadlines_s == [30, 30, 30, 7]
    assert chat.targets == ServiceTargets(
        time_to_first_token=Duration(nanos=500_000_000), end_to_end=Duration(seconds=3)
    )


async def test_a_long_prompt_comes_out_whole_whichever_way_it_came() -> None:
    door = Door(SchedulerSettings(), served_model(context_tokens=100_000))
    ids = [number % 250 for number in range(3 * PIECE_TOKENS + 5)]
    by_ids = await admit(door, GenerateRequest(token_ids=TokenIds(ids=ids)))
    by_text = await admit(door, GenerateRequest(prompt="x" * (len(ids) - 1)))
    assert list(by_ids.submit.prompt_token_ids) == ids
    assert by_text.request.prompt_tokens == len(by_text.submit.prompt_token_ids) == len(ids)
    door.close()


@pytest.mark.parametrize(
    ("message", "in_a_thread"),
    [
        (GenerateRequest(prompt="hi"), False),
        (GenerateRequest(token_ids=TokenIds(ids=[5] * 256)), False),
        (GenerateRequest(prompt="hi " * 1_000), True),
        (GenerateRequest(chat=HELLO), True),
        (
            GenerateRequest(
                prompt="hi",
                sampling=SamplingParams(structured_output=StructuredOutput(json_schema='{"type": "object"}')),
            ),
            True,
        ),
    ],
    ids=["a short prompt", "a few token ids", "a long prompt", "a chat", "a schema"],
)
async def test_what_may_take_long_is_read_in_a_thread(
    door: Door, monkeypatch: pytest.MonkeyPatch, message: GenerateRequest, in_a_thread: bool
) -> None:
    readers: list[threading.Thread] = []
    read = Door._read_request

    def noted(self: Door, message: GenerateRequest) -> object:
        readers.append(threading.current_thread())
        return read(self, message)

    monkeypatch.setattr(Door, "_read_request", noted)
    await admit(door, message)
    [reader] = readers
    assert (reader is not threading.current_thread()) is in_a_thread
