"""Who the workers are: for each address one keeper, which holds a session to what is there."""

import asyncio
from collections.abc import Callable, Sequence

from scheduler.agreed_model import AgreedModel
from scheduler.circuit import Circuit, Circuits
from scheduler.dispatcher import Dispatcher
from scheduler.served_model import ServedModel
from scheduler.worker_dialer import WorkerDialer
from scheduler.worker_keeper import WorkerKeeper


class WorkerPool:
    """Keeps sessions to all workers; those that serve another model than the first one are left alone."""

    def __init__(
        self,
        addresses: Sequence[str],
        dialer: WorkerDialer,
        dispatcher: Dispatcher,
        circuits: Circuits,
        *,
        on_change: Callable[[], None],
    ) -> None:
        """Keep the circuit of each address in ``circuits``."""
        self._addresses = addresses
        self._dialer = dialer
        self._dispatcher = dispatcher
        self._circuits = circuits
        self._on_change = on_change
        self._model = AgreedModel()

    @property
    def model(self) -> ServedModel | None:
        """The served model; None until the first worker has told it."""
        return self._model.served

    async def run(self) -> None:
        """Keep the sessions until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for address in dict.fromkeys(self._addresses):
                tasks.create_task(self._keeper(address).run())

    def _keeper(self, address: str) -> WorkerKeeper:
        circuit = self._circuits[address] = Circuit()
        return WorkerKeeper(address, self._dialer, self._dispatcher, self._model, circuit, on_change=self._on_change)
