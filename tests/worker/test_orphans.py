import subprocess
import sys

PARENT = """
import subprocess, sys
from worker.orphans import Guardian
child = subprocess.Popen(["sleep", "600"])
guardian = Guardian([child.pid])
print(child.pid, flush=True)
if sys.stdin.readline() == "dismiss\\n":
    guardian.dismiss()
    print(child.poll(), flush=True)
    child.kill()
sys.stdin.read()
"""


def parent() -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", PARENT], stdin=-1, stdout=-1, text=True)


def test_what_a_killed_process_started_is_killed() -> None:
    with parent() as process:
        assert process.stdout
        child = process.stdout.readline()
        assert process.poll() is None
        process.kill()
        # The child holds this pipe's other end, so that it ends when the last of them is gone.
        assert process.stdout.read() == ""
    assert int(child) > 0


def test_a_dismissed_guardian_kills_nobody() -> None:
    with parent() as process:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()
        process.stdin.write("dismiss\n")
        process.stdin.flush()
        assert process.stdout.readline() == "None\n"
        process.kill()
