"""``sluice up`` with limits of its own, in JSON as its first argument; those in ``later`` hold from SIGUSR1 on."""

import json
import signal
import sys
from typing import Any

from common import cli, deployment, launch


def limit(limits: dict[str, Any]) -> None:
    """Set a module's constants, wherever a name is one."""
    for name, value_s in limits.items():
        for module in (deployment, launch):
            if hasattr(module, name):
                setattr(module, name, value_s)


if __name__ == "__main__":
    given = json.loads(sys.argv.pop(1))
    later = given.pop("later", {})
    limit({"PROGRESS_S": 0.2, "STOP_S": 0.1, **given})
    signal.signal(signal.SIGUSR1, lambda *_: limit(later))
    cli.main()
