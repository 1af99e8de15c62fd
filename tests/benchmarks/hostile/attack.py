"""All that the hostile owners do at once."""

import asyncio
from collections.abc import Iterator, Sequence

from hostile.inputs import Expected, Input
from hostile.report import Report
from hostile.sending import Sender, fault

AT_ONCE = 8
"""Inputs that one owner sends at once; those that wait for the server to cut them off do not count."""
PATIENT_AT_ONCE = 60


class Attack:
    """All that the hostile owners do."""

    def __init__(
        self, inputs: Iterator[tuple[int, Input]], senders: Sequence[Sender], report: Report
    ) -> None:
        self._inputs, self._senders, self._report = inputs, senders, report
        self._at_once = asyncio.Semaphore(AT_ONCE * len(senders))
        self._patient = asyncio.Semaphore(PATIENT_AT_ONCE)
        self.jobs: list[tuple[int, str, str]] = []
        """Owner, job and input of what may only be found out while the job runs."""

    async def run(self, secrets: Sequence[str]) -> None:
        """Send all inputs."""
        async with asyncio.TaskGroup() as group:
            for owner, one in self._inputs:
                waits = one.expected is Expected.CUT_OFF
                semaphore = self._patient if waits else self._at_once
                await semaphore.acquire()
                group.create_task(self._send(owner, one, secrets)).add_done_callback(
                    lambda _, free=semaphore: free.release()
                )

    async def _send(self, owner: int, one: Input, secrets: Sequence[str]) -> None:
        inputs, outcomes = self._report.inputs, self._report.outcomes
        inputs[one.kind] = inputs.get(one.kind, 0) + 1
        found = {}
        for answer in await self._senders[owner].send(one):
            outcomes[str(answer.status)] = outcomes.get(str(answer.status), 0) + 1
            excused = one.connections > 1 and answer.retry_s is not None
            if not excused and (what := fault(one.expected, answer, secrets)) is not None:
                found[what] = answer
            if answer.job is not None:
                self.jobs.append((owner, answer.job, f"{one.kind}: {one.name}"))
        for what, answer in found.items():
            sent = repr(b"".join(one.parts)[:1500])
            self._report.blame(f"{one.kind}: {one.name}", what, f"{answer} for {sent}")
