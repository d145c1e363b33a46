"""What GetModelInfo tells about the served model, its defaults and limits."""

from google.protobuf.duration_pb2 import Duration

from scheduler.config import SchedulerSettings
from scheduler.core.request import Priority
from scheduler.priority import TO_PROTO, settings_of
from scheduler.served_model import ServedModel
from sluice.v1.generation_pb2 import SamplingParams
from sluice.v1.inference_pb2 import GetModelInfoResponse, PriorityInfo


def describe(model: ServedModel, settings: SchedulerSettings, sampling: SamplingParams) -> GetModelInfoResponse:
    """Return the description; ``sampling`` are the values that unset fields take, but for max_tokens."""
    default_deadline = Duration()
    default_deadline.FromMicroseconds(round(settings.default_deadline_s * 1e6))
    info = GetModelInfoResponse(
        model=model.name,
        context_tokens=model.context_tokens,
        vocabulary_size=model.vocabulary_size,
        default_sampling=sampling,
        max_tokens_cap=settings.max_tokens.cap,
        priorities=[_describe_priority(priority, settings) for priority in Priority],
        default_deadline=default_deadline,
        supports_chat=model.tokenizer.supports_chat,
    )
    info.default_sampling.max_tokens = min(settings.max_tokens.default, settings.max_tokens.cap)
    return info


def _describe_priority(priority: Priority, settings: SchedulerSettings) -> PriorityInfo:
    entitled = settings_of(priority, settings)
    return PriorityInfo(
        priority=TO_PROTO[priority],
        prompt_tokens_below=entitled.prompt_tokens_below,
        max_tokens_cap=min(entitled.max_tokens_cap, settings.max_tokens.cap),
    )
