"""A short crash campaign on each database; the long one is `tests/benchmarks/crash_campaign.py --kills 200`."""

import subprocess
import sys
from pathlib import Path

import pytest
from databases import ON_EACH

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "crash_campaign.py"
KILLS = 8


@pytest.mark.campaign
@ON_EACH
def test_jobs_end_as_if_their_servers_had_not_been_killed(store_url: str) -> None:
    command = [sys.executable, SCRIPT, "--kills", KILLS, "--seed", 1, "--database-url", store_url]
    done = subprocess.run(
        list(map(str, command)), cwd=SCRIPT.parents[3], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{KILLS} blows" in done.stdout
    assert "0 differences" in done.stdout
