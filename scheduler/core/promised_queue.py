"""The requests that wait, and what is promised to them."""

from bisect import bisect_left, insort

from scheduler.core.backlog import Backlog, Job
from scheduler.core.queue import WaitingQueue
from scheduler.core.request import Request


class PromisedQueue(WaitingQueue):
    """Waiting requests in order of a given key, and besides the backlog of those that are promised to be in time.

    Attributes:
        backlog: The promises.

    """

    def __init__(self) -> None:
        """Order requests that are pushed without a promise by their deadline."""
        super().__init__(lambda request: request.deadline_s)
        self.backlog = Backlog()
        self._jobs: dict[str, Job] = {}
        self._by_class: dict[str, list[Job]] = {}

    def promise(self, job: Job) -> None:
        """Add a request that is to be in time, in order of urgency."""
        self.push_at(job.urgent_s, job.request)
        self._jobs[job.request.request_id] = job
        insort(self._by_class.setdefault(job.request.class_name, []), job)
        self.backlog.add(job)

    def remove(self, request_id: str) -> Request | None:
        """Take a request out, wherever it stands; None when it is not there."""
        if request_id in self._jobs:
            self.backlog.remove(self.break_promise(request_id))
        return super().remove(request_id)

    def break_promise(self, request_id: str) -> Job:
        """Forget the promise to a request that the backlog has shed; it still waits."""
        job = self._jobs.pop(request_id)
        of_class = self._by_class[job.request.class_name]
        del of_class[bisect_left(of_class, job)]
        return job

    def job(self, request_id: str) -> Job | None:
        """The request as the plan sees it; None when nothing is promised to it."""
        return self._jobs.get(request_id)

    def first_of(self, class_name: str) -> Job | None:
        """A class's most urgent promise."""
        jobs = self._by_class.get(class_name)
        return jobs[0] if jobs else None
