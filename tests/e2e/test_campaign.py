"""Campaigns against a real server: hostile inputs, and a few deaths of the actors of a real Ray.

The long ones against Ray are those of `tests/benchmarks/crash_workers.py`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
KILLS = 3
INPUTS = 2000


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, cwd=BENCHMARKS.parents[1], capture_output=True, text=True, check=False)


@pytest.mark.campaign
def test_a_job_ends_as_if_its_actors_had_not_been_killed() -> None:
    done = run("crash_workers.py", "--victims", "actor", "--kills", KILLS, "--seed", 1)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{KILLS} strikes" in done.stdout
    assert "0 differences" in done.stdout


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_no_hostile_input_gets_through_or_disturbs_an_honest_owner() -> None:
    done = run("hostile_campaign.py", "--inputs", INPUTS)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{INPUTS:,} inputs | 0 faults" in done.stdout
