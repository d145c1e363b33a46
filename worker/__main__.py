"""The command sluice-worker."""

import sys

import uvloop

from common import log
from worker.app import run
from worker.config import WorkerSettings
from worker.engine import EngineStartError


def main() -> None:
    """Read the settings and serve."""
    settings = WorkerSettings.load(prog="sluice-worker")
    log.configure(settings.log)
    if settings.engine == "vllm" and not settings.model:
        sys.exit("sluice-worker: --model is needed: a folder or a hub name")
    try:
        sys.exit(uvloop.run(run(settings)))
    except EngineStartError as error:
        sys.exit(f"sluice-worker: {error}")


if __name__ == "__main__":
    main()
