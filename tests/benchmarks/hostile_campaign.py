"""Sends hostile inputs to a server while an honest owner works: nothing may get through, or stand still.

    .venv/bin/python tests/benchmarks/hostile_campaign.py --inputs 2000 [--seed 0] [--health-ms 100] [--json FILE]

A server of its own runs a short job of an honest owner again and again, and answers the same owner's dry runs. Three
other owners, each from an address of its own, send it job files, models, tokenizers, records, templates, bodies,
connections, and requests for the honest owner's job; which ones follows from the seed. `/healthz` is asked every 50 ms
from a process of its own. Checks of job files get less processor time and memory than in use, or the campaign would
take hours.

Prints a row of a table and a JSON object. Exits with 1 if

- an input got through, was not answered as it should be, or was answered 5xx (429 with a Retry-After is asked again),
- an answer held anything of the honest owner's,
- a result of the honest job differed from the first, undisturbed one, or a dry run of it failed,
- the server's own process took 1 GB of memory or more, or its log has a traceback,
- or `/healthz` had a 99th percentile above `--health-ms`.

Linux only: other systems have no second loopback address.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
from hostile.attack import Attack
from hostile.honest import Honest, wait_at_most, wait_for
from hostile.inputs import Draw, Input, Make, Target
from hostile.jobs import JOBS, TEMPLATES
from hostile.models import MODELS, TOKENIZERS
from hostile.records import RECORDS
from hostile.report import Report, failures, row
from hostile.requests import BODIES, CONNECTIONS, OTHERS
from hostile.sending import Sender
from load import announced, answer_of
from tiny_job import CPU_BATCH_TOKENS, document_of, make_world

COMMAND = Path(__file__).parents[1] / "e2e" / "tuned_command.py"
CLIENTS = Path(__file__).with_name("load_clients.py")
CHECKS = {"CPU_S": 2, "LEAST_BYTES": 2**29, "MOST_BYTES": 2**29}
"""Limits of one check in this campaign."""

KINDS: Mapping[str, tuple[int, Sequence[Make]]] = {
    "job files": (5, JOBS),
    "models": (3, MODELS),
    "tokenizers": (2, TOKENIZERS),
    "records": (3, RECORDS),
    "templates": (2, TEMPLATES),
    "bodies": (3, BODIES),
    "connections": (2, CONNECTIONS),
    "others' jobs": (2, OTHERS),
}
"""Shares of the inputs, and how they are made."""

HOSTILE = ("mallory", "trudy", "eve")
HEALTH_PER_S = 20
IDLE_S = 10.0
SAMPLE_S = 0.1
SECRET = "honest-secret"
ADMIN = "key-of-the-campaign"


def drawn(
    rng: Random, target: Target, keys: Sequence[str], count: int, kinds: Sequence[str]
) -> Iterator[tuple[int, Input]]:
    """Yield `count` inputs of some kinds, each with the number of its owner."""
    turns = [(kind, KINDS[kind][1]) for kind in kinds for _ in range(KINDS[kind][0])]
    made: Counter[str] = Counter()
    for number in range(count):
        kind, makes = turns[number % len(turns)]
        make = makes[made[kind] % len(makes)]
        made[kind] += 1
        owner = rng.randrange(len(keys))
        name = make.__name__.strip("_").replace("_", " ")
        yield owner, make(Draw(rng=rng, target=target, key=keys[owner], number=number, kind=kind, name=name))


async def watch_memory(process: psutil.Process, report: Report, over: asyncio.Event) -> None:
    """Keep the most memory that a process takes; its children do not count."""
    while not over.is_set():
        report.memory_bytes = max(report.memory_bytes, process.memory_info().rss)
        await wait_at_most(over, SAMPLE_S)


@asynccontextmanager
async def watched_health(url: str) -> AsyncIterator[dict[str, Any]]:
    """Ask for `/healthz` all the time; fills the dictionary with what was seen at the end."""
    command = [sys.executable, str(CLIENTS), "health", url, "--per-second", str(HEALTH_PER_S)]
    clients = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    seen: dict[str, Any] = {}
    try:
        yield seen
    finally:
        assert clients.stdin is not None
        clients.stdin.close()
        seen |= await answer_of(clients)


def p99_ms(latencies_s: Sequence[float]) -> float:
    """The 99th percentile, in milliseconds."""
    return round(1000 * sorted(latencies_s)[int(0.99 * len(latencies_s))], 1)


@asynccontextmanager
async def served(folder: Path, root: Path) -> AsyncIterator[tuple[str, psutil.Process]]:
    """A server on a free port: its URL and its process."""
    constants = {"policy": document_of(0)["policy"], "batch_tokens": CPU_BATCH_TOKENS, "checks": CHECKS}
    command = [sys.executable, str(COMMAND), json.dumps(constants), "serve", "--port", "0"]
    command += ["--data-dir", str(folder / "data"), "--root", str(root)]
    environment = {**os.environ, "RANKSIEVE_API_KEY": ADMIN, "RANKSIEVE_RUNNING_JOBS": "2"}
    with (folder / "log").open("w") as log:
        process = psutil.Popen(command, stderr=log, stdout=subprocess.DEVNULL, env=environment)
        try:
            yield await asyncio.to_thread(announced, process, folder / "log"), process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


async def campaign(folder: Path, count: int, kinds: Sequence[str], report: Report) -> None:
    """Fill a report."""
    root = folder / "root"
    root.mkdir()
    make_world(root)
    job = {name: value for name, value in document_of(0).items() if name != "policy"}
    hostile_job = {
        **job,
        "name": "hostile",
        "task": job["task"]
        | {"data": job["task"]["data"] | {"sizes": dict.fromkeys(job["task"]["data"]["sizes"], 8)}},
    }
    async with (
        served(folder, root) as (url, process),
        httpx2.AsyncClient(base_url=url, timeout=600.0) as http,
    ):
        keys = {}
        for owner in ("honest", *HOSTILE):
            answer = await http.post("/v1/keys", json={"owner": owner}, headers=_key(ADMIN))
            keys[owner] = answer.raise_for_status().json()["secret"]
        async with watched_health(url) as idle:
            await asyncio.sleep(IDLE_S)
        http.headers |= _key(keys["honest"])
        honest = Honest(http, job | {"name": SECRET}, report)
        await honest.run_undisturbed()
        host, data_dir = urlsplit(url).netloc, folder / "data"
        target = Target(host=host, root=root, data_dir=data_dir, honest_job=honest.first_job, job=hostile_job)
        senders = [
            Sender(host=host.split(":")[0], port=int(host.split(":")[1]), address=f"127.0.0.{2 + number}")
            for number in range(len(HOSTILE))
        ]
        inputs = drawn(Random(report.seed), target, [keys[owner] for owner in HOSTILE], count, kinds)
        attack, over = Attack(inputs, senders, report), asyncio.Event()
        began_s = time.monotonic()
        async with watched_health(url) as health, asyncio.TaskGroup() as group:
            for work in (honest.work(over), honest.ask(over), watch_memory(process, report, over)):
                group.create_task(work)
            try:
                await attack.run([SECRET, str(data_dir)])
                for owner, id, name in attack.jobs:
                    await _require_failure(url, keys[HOSTILE[owner]], id, name, report)
            finally:
                over.set()
        report.seconds = round(time.monotonic() - began_s)
        report.health_idle_p99_ms = p99_ms(idle["latencies_s"])
        report.health_p99_ms = p99_ms(health["latencies_s"])
        report.health_most_ms = round(1000 * max(health["latencies_s"]), 1)
        report.health_errors = health["errors"]


def tracebacks(log: str) -> list[str]:
    """What a server's log tells of errors that nobody expected."""
    return [f"Traceback{rest[:1500]}" for rest in log.split("Traceback")[1:]]


async def _require_failure(url: str, key: str, id: str, name: str, report: Report) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=60.0, headers=_key(key)) as http:
        job = await wait_for(http, id)
    if job["state"] != "failed":
        report.blame(name, "through", f"its job {job['state']}: {json.dumps(job)[:1500]}")
    elif SECRET in json.dumps(job):
        report.blame(name, "leak", json.dumps(job)[:1500])


def _key(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def main() -> None:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--health-ms", type=float, default=100, help="most that the p99 of /healthz may be")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = Report(seed=options.seed)
    with tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as name:
        asyncio.run(campaign(Path(name), options.inputs, options.kinds, report))
        for found in tracebacks((Path(name) / "log").read_text(errors="replace")):
            report.blame("server", "traceback", found)
    print(row(report))
    text = json.dumps(asdict(report) | {"honest_dry_runs_ms": sorted(map(round, report.honest_dry_runs_ms))})
    print(text)
    if options.json:
        options.json.write_text(text)
    if failed := failures(report, options.health_ms):
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
