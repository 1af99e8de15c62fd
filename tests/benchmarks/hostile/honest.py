"""The honest owner, who must not notice the others."""

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx2
from accounts import lasting
from hostile.report import Report

DRY_RUN_S = 1.0
"""Pause between two dry runs."""
ENDED = {"succeeded", "failed", "crashed", "cancelled"}


class Honest:
    """The honest owner: one job again and again, and dry runs of it."""

    def __init__(self, http: httpx2.AsyncClient, job: Mapping[str, Any], report: Report) -> None:
        self._http, self._job, self._report = http, job, report
        self.first_job = ""
        self._expected: Any = None

    async def run_undisturbed(self) -> None:
        """Run the job that the others are compared with."""
        self.first_job, self._expected = await self._run()

    async def work(self, over: asyncio.Event) -> None:
        """Run jobs until it is over, at least one."""
        while True:
            id, found = await self._run()
            self._report.honest_jobs += 1
            if found != self._expected:
                self._report.blame("honest", "differs", f"job {id}: {json.dumps(found)[:2000]}")
            if over.is_set():
                return

    async def ask(self, over: asyncio.Event) -> None:
        """Ask for a dry run every so often until it is over."""
        while not over.is_set():
            began_s = time.monotonic()
            answer = await self._http.post("/v1/estimates", json=self._job)
            self._report.honest_dry_runs_ms.append(1000 * (time.monotonic() - began_s))
            if answer.status_code != 200:
                self._report.blame("honest", "dry run", f"{answer.status_code} {answer.text[:300]}")
            await wait_at_most(over, DRY_RUN_S)

    async def _run(self) -> tuple[str, Any]:
        answer = await self._http.post("/v1/jobs", json=self._job)
        answer.raise_for_status()
        id = answer.json()["id"]
        job = await wait_for(self._http, id)
        if job["state"] != "succeeded":
            return id, job
        candidates = (await self._http.get(f"/v1/jobs/{id}/candidates", params={"limit": 500})).json()
        rows = sorted(
            json.dumps({name: row[name] for name in ("genome", "examples", "metrics") if name in row})
            for row in candidates["candidates"]
        )
        return id, lasting({"result": job["result"], "candidates": rows})


async def wait_for(http: httpx2.AsyncClient, id: str) -> dict[str, Any]:
    """A job as it is once it has ended."""
    while True:
        job = dict((await http.get(f"/v1/jobs/{id}")).json())
        if job["state"] in ENDED:
            return job
        await asyncio.sleep(0.5)  # an open stream would count among what is measured


async def wait_at_most(over: asyncio.Event, seconds: float) -> None:
    """Wait until it is over, at most so long."""
    with suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), seconds)
