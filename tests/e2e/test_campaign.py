"""A short campaign against the actors of a real Ray; the long ones are those of `tests/benchmarks/crash_workers.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "crash_workers.py"
KILLS = 3


@pytest.mark.campaign
def test_a_job_ends_as_if_its_actors_had_not_been_killed() -> None:
    command = [sys.executable, SCRIPT, "--victims", "actor", "--kills", KILLS, "--seed", 1]
    done = subprocess.run(
        list(map(str, command)), cwd=SCRIPT.parents[2], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{KILLS} strikes" in done.stdout
    assert "0 differences" in done.stdout
