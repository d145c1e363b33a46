"""Who the workers are: for each address one keeper, which holds a session to what is there."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from scheduler.agreed_model import AgreedModel
from scheduler.circuit import Circuit, Circuits
from scheduler.dispatcher import Dispatcher
from scheduler.errors import no_worker
from scheduler.served_model import ServedModel
from scheduler.worker_dialer import WorkerDialer
from scheduler.worker_keeper import Place, WorkerKeeper
from scheduler.worker_names import WorkerName


class WorkerPool:
    """Keeps sessions to all workers; those that serve another model than the present ones are left alone."""

    def __init__(
        self,
        given: Sequence[str],
        dialer: WorkerDialer,
        dispatcher: Dispatcher,
        circuits: Circuits,
        *,
        on_change: Callable[[], None],
    ) -> None:
        """Find workers at the addresses given, HOST:PORT; keep the circuit of each worker's in ``circuits``."""
        self._names = [WorkerName(each) for each in dict.fromkeys(given)]
        self._dialer = dialer
        self._dispatcher = dispatcher
        self._circuits = circuits
        self._on_change = on_change
        self._model = AgreedModel(on_replace=partial(dispatcher.end_all, no_worker))
        self._keepers: dict[str, tuple[WorkerKeeper, asyncio.Task[None]]] = {}

    @property
    def model(self) -> ServedModel | None:
        """The served model; None until the first worker has told it. Another takes its place when no worker has it."""
        return self._model.served

    async def run(self) -> None:
        """Keep the sessions until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._keep(tasks)
            for name in self._names:
                tasks.create_task(name.follow(partial(self._keep, tasks)))

    def _keep(self, tasks: asyncio.TaskGroup) -> None:
        """Begin with the addresses that are new; leave those that are gone once nothing is connected there."""
        wanted = {address: name.host for name in self._names for address in name.addresses}
        for address, (keeper, task) in self._keepers.items():
            keeper.is_wanted = address in wanted
            if not keeper.is_wanted and not keeper.is_connected:
                task.cancel()
        for address, host in wanted.items():
            if address not in self._keepers:
                self._begin(address, host, tasks)

    def _begin(self, address: str, host: str, tasks: asyncio.TaskGroup) -> None:
        circuit = self._circuits[address] = Circuit()
        place = Place(address, host, circuit)
        keeper = WorkerKeeper(place, self._dialer, self._dispatcher, self._model, on_change=self._on_change)
        task = tasks.create_task(keeper.run())
        task.add_done_callback(lambda _: self._forget(address))
        self._keepers[address] = keeper, task

    def _forget(self, address: str) -> None:
        del self._keepers[address], self._circuits[address]
