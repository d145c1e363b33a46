"""What GetModelInfo tells about the served model, its defaults and limits."""

from scheduler.config import SchedulerSettings
from scheduler.served_model import ServedModel
from scheduler.service_classes import ServiceClasses
from sluice.v1.generation_pb2 import SamplingParams
from sluice.v1.inference_pb2 import GetModelInfoResponse


def describe(
    model: ServedModel, settings: SchedulerSettings, sampling: SamplingParams, classes: ServiceClasses
) -> GetModelInfoResponse:
    """Return the description; ``sampling`` are the values that unset fields take, but for max_tokens."""
    cap = settings.max_tokens.cap
    info = GetModelInfoResponse(
        model=model.name,
        context_tokens=model.context_tokens,
        vocabulary_size=model.vocabulary_size,
        default_sampling=sampling,
        max_tokens_cap=cap,
        service_classes=classes.describe(max_tokens_cap=cap, default_deadline_s=settings.default_deadline_s),
        supports_chat=model.tokenizer.supports_chat,
    )
    info.default_sampling.max_tokens = min(settings.max_tokens.default, cap)
    return info
