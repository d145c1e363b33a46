"""The command sluice-worker."""

import os
import sys

import uvloop

from common import log
from common.address import BindError
from common.tls import CredentialsError
from worker.app import run
from worker.config import WorkerSettings
from worker.engine import EngineStartError


def main() -> None:
    """Read the settings and serve."""
    settings = WorkerSettings.load(prog="sluice-worker")
    log.configure(settings.log)
    if settings.engine == "vllm" and not settings.model:
        sys.exit("sluice-worker: --model is needed: a folder or a hub name")
    # vLLM's log lines become ours: one format, one level.
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")
    try:
        sys.exit(uvloop.run(run(settings)))
    except (BindError, CredentialsError, EngineStartError) as error:
        sys.exit(f"sluice-worker: {error}")


if __name__ == "__main__":
    main()
