"""What would become of a request: the core's outlook in the API's words."""

import time

from scheduler.core.decisions import Outlook
from scheduler.dispatcher import Dispatcher
from scheduler.durations import duration_or_none
from scheduler.errors import to_rich_error
from scheduler.parsing import Admission
from scheduler.receipt import accepted
from sluice.v1 import inference_pb2


def explain(admission: Admission, dispatcher: Dispatcher, model: str) -> inference_pb2.ExplainResponse:
    """Return what would become of a request that came through the door now; nothing has."""
    outlook = dispatcher.explain(admission.request)
    return inference_pb2.ExplainResponse(
        terms=accepted(admission, model, outlook.place, promised=outlook.place.promised, now_s=time.monotonic()),
        refusal=_refusal(outlook, dispatcher),
        worker=outlook.worker_id,
        expected_output_tokens=outlook.expected_tokens,
        estimated_time_to_first_token=duration_or_none(outlook.first_token_s),
        estimated_total=duration_or_none(outlook.total_s),
        queued_requests=dispatcher.core.waiting,
        workers=dispatcher.workers,
    )


def _refusal(outlook: Outlook, dispatcher: Dispatcher) -> inference_pb2.Refusal | None:
    if outlook.refusal is None:
        return None
    error = dispatcher.refusal(outlook.refusal)
    number, _ = to_rich_error(error).code.value
    return inference_pb2.Refusal(
        reason=error.reason, message=str(error), code=number, retry_after=duration_or_none(error.retry_after_s)
    )
