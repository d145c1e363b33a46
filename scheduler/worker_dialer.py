"""How the scheduler connects to its workers, shows them that it is one, and knows them."""

import grpc.aio

from common.credentials import bearer, read_token
from common.grpc_server import CHANNEL_OPTIONS
from common.tls import ClientTls
from sluice.worker.v1 import worker_pb2


class ForeignWorker(ValueError):
    """A worker answers that was not started for this deployment."""

    def __init__(self, deployment: str, wanted: str) -> None:
        whose = f"of deployment {deployment!r}" if deployment else "of no deployment"
        super().__init__(f"the worker that answers there is {whose}, not of this one, {wanted!r}")


class WorkerDialer:
    """Opens connections with the certificates and the token that the files hold at that time."""

    def __init__(self, tls: ClientTls, token_file: str, deployment: str = "") -> None:
        """Use these files; an empty name means that there is none, and without a deployment every worker will do."""
        self._tls = tls
        self._token_file = token_file
        self._deployment = deployment

    def channel(self, address: str, host: str) -> grpc.aio.Channel:
        """Open a channel to a worker whose certificate names the host; CredentialsError where a file will not do."""
        named = [("grpc.ssl_target_name_override", host)]
        # A connection of its own: another channel's may be the one that was given up.
        return self._tls.channel(address, [*CHANNEL_OPTIONS, *named, ("grpc.use_local_subchannel_pool", 1)])

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what shows a worker with each call that this is a scheduler; CredentialsError as above."""
        return bearer(read_token(self._token_file)) if self._token_file else ()

    def recognise(self, hello: worker_pb2.Hello) -> None:
        """Return where the worker is of this deployment; another one's may answer at an address that is ours.

        Raises:
            ForeignWorker: It is not.

        """
        if self._deployment and hello.deployment != self._deployment:
            raise ForeignWorker(hello.deployment, self._deployment)

    async def check(self) -> None:
        """Raise the CredentialsError that connecting would."""
        self.metadata()
        await self.channel("127.0.0.1:0", "127.0.0.1").close()
