"""Coverage-guided fuzzing of the door: what comes of any bytes is a request that is valid, or a clean typed error.

    python -m tests.fuzz.parser [--seconds S] [--seed N] [--corpus FOLDER]

atheris (libFuzzer) measures which branches of scheduler and common each input reaches, keeps what reaches new ones and
mutates that; the mutations are structured (`mutation`), so that most inputs are messages. Each input meets a model
with Qwen's kind of chat template, one with another kind and one with none. The process ends with status 0 when no
input was a finding; a finding is written to a file that it names.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["scheduler", "common"]):
    from tests.fuzz.doorstep import KINDS, MOST_BYTES, Doorstep

from tests.fuzz.mutation import Mutator

LONGEST_S = 10
SEEDS = 200


def mutate(data: bytes, most_bytes: int, seed: int) -> bytes:
    """Return another input."""
    chance = random.Random(seed)
    choice = data[0] if data and chance.random() < 0.9 else chance.randrange(256)
    made = Mutator(chance).mutated(data[1:], KINDS[choice % len(KINDS)])
    return (bytes([choice]) + made)[:most_bytes]


def plant(folder: Path, seed: int) -> None:
    """Write inputs to begin with."""
    chance = random.Random(seed)
    for number in range(SEEDS):
        message = Mutator(chance).filled(KINDS[number % len(KINDS)], share=chance.choice([0.05, 0.1, 0.3]))
        (folder / f"seed-{number}").write_bytes(bytes([number % 256]) + message.SerializeToString()[:MOST_BYTES])


def main() -> None:
    """Fuzz; atheris ends the process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for how long")
    parser.add_argument("--seed", type=int, default=1, help="of all chance")
    parser.add_argument("--corpus", type=Path, help="folder that is read, and keeps what is found (default: none)")
    options = parser.parse_args()
    folder = options.corpus or Path(tempfile.mkdtemp(prefix="door-corpus-"))
    folder.mkdir(parents=True, exist_ok=True)
    plant(folder, options.seed)
    flags = {
        "max_total_time": options.seconds,
        "seed": options.seed,
        "timeout": LONGEST_S,
        "max_len": MOST_BYTES,
        "rss_limit_mb": 4096,
        "print_final_stats": 1,
        "artifact_prefix": f"{folder}/",
    }
    arguments = [sys.argv[0], *(f"-{name}={value}" for name, value in flags.items()), str(folder)]
    atheris.Setup(arguments, Doorstep().take, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
