"""The command sluice-scheduler."""

import sys

import uvloop

from common import log
from common.address import BindError
from common.tls import CredentialsError
from scheduler.app import run
from scheduler.config import SchedulerSettings

# How long a thread that reads a prompt may keep the event loop from the interpreter; Python's own 5 ms are tokens.
SWITCH_INTERVAL_S = 0.0005


def main() -> None:
    """Read the settings and serve."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    settings = SchedulerSettings.load(prog="sluice-scheduler")
    log.configure(settings.log)
    try:
        uvloop.run(run(settings))
    except (BindError, CredentialsError) as error:
        sys.exit(f"sluice-scheduler: {error}")


if __name__ == "__main__":
    main()
