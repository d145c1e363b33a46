"""The command sluice-scheduler."""

import sys

import uvloop

from common import log
from common.address import BindError
from scheduler.app import run
from scheduler.config import SchedulerSettings


def main() -> None:
    """Read the settings and serve."""
    settings = SchedulerSettings.load(prog="sluice-scheduler")
    log.configure(settings.log)
    try:
        sys.exit(uvloop.run(run(settings)))
    except BindError as error:
        sys.exit(f"sluice-scheduler: {error}")


if __name__ == "__main__":
    main()
