"""The command sluice-scheduler."""

import sys

import uvloop

from common import log
from scheduler.app import run
from scheduler.config import SchedulerSettings


def main() -> None:
    """Read the settings and serve."""
    settings = SchedulerSettings.load(prog="sluice-scheduler")
    log.configure(settings.log)
    sys.exit(uvloop.run(run(settings)))


if __name__ == "__main__":
    main()
