"""What a server bears while a job searches: 200 open event streams and 50 reads a second, for a minute.

    .venv/bin/python tests/benchmarks/load.py [--streams 200] [--reads 50] [--seconds 60] [--json FILE]

A server of its own runs one long job on a tiny model of random weights. For `--seconds` nobody asks it anything, then
the load comes for as long; the search's speed is what `/metrics` counts in each. Streams and reads come from a process
of their own (this one), which takes processor time from the search, too: on few cores the slowdown is an upper bound.
Runs on a machine without other work.
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["<unk>", "</s>", "Review", "Mood", ":", "good", "bad", *(f"word{n}" for n in range(200))]
READS = ("", "/events?limit=100", "/generations", "/candidates?limit=50", "/artifacts")
SCORED = re.compile(r'^ranksieve_evaluations_total\{outcome="scored"\} (\S+)$', re.MULTILINE)
START_S = 300.0


def make_world(folder: Path) -> dict[str, Any]:
    """A tiny model and its records in a folder; returns a job file that would search for hours."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=64, intermediate_size=128, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=32,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    tokenizer.save_pretrained(folder / "model")
    records = [
        {
            "text": " ".join(f"word{(n * 7 + k) % 200}" for k in range(12)),
            "label": WORDS[5 + n % 2],
            "n": str(n),
        }
        for n in range(2000)
    ]
    (folder / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
    return {
        "name": "load",
        "model": {"path": str(folder / "model"), "dtype": "float32"},
        "task": {
            "kind": "choice",
            "prompt": "Review: {{ text }} {{ n }} Mood:",
            "answer": "{{ label }}",
            "choices": ["good", "bad"],
            "data": {
                "source": {"path": str(folder / "records.jsonl")},
                "sizes": {"calibration": 64, "search": 512, "confirm": 64, "test": 64},
            },
        },
        "projection": {"rank_step": 1},
        "search": {"generations": 100_000, "max_evaluations": 10_000_000, "patience": 100_000},
        "objective": {"kind": "target_params", "share": 0.4},
        "resources": {"actors": 1},
    }


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """A server of its own on a free port, and a client of it."""
    command = [sys.executable, "-c", "from api.cli import main; main()", "serve", "--port", "0"]
    command += ["--data-dir", str(folder / "data"), "--root", str(folder)]
    environment = {**os.environ, "RANKSIEVE_REQUESTS_PER_SECOND": "0"}
    with (folder / "log").open("w+") as log:
        server = subprocess.Popen(command, stderr=log, stdout=subprocess.DEVNULL, env=environment)
        try:
            url = await asyncio.to_thread(_announced, server, folder / "log")
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
            async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=30.0) as client:
                yield client
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


def _announced(server: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and server.poll() is None:
        if found := re.search(r"ranksieve listens on (\S+)", log.read_text()):
            return found[1]
        time.sleep(0.1)  # a file tells nobody of what is written to it
    raise SystemExit(f"the server did not start:\n{log.read_text()}")


async def searching(client: httpx2.AsyncClient, spec: dict[str, Any]) -> str:
    """Submits the job; returns its id once its search has saved a generation."""
    answer = await client.post("/v1/jobs", json=spec)
    answer.raise_for_status()
    id = str(answer.json()["id"])
    async with client.stream(
        "GET", f"/v1/jobs/{id}/events", headers={"Accept": "text/event-stream"}
    ) as lines:
        async for line in lines.aiter_lines():
            if line == "event: generation.completed":
                return id
    raise SystemExit(f"the job ended before it searched: {(await client.get(f'/v1/jobs/{id}')).text}")


async def evaluations(client: httpx2.AsyncClient) -> float:
    found = SCORED.search((await client.get("/metrics")).text)
    return float(found[1]) if found else 0.0


async def pace(client: httpx2.AsyncClient, seconds: float, *load: Any) -> float:
    """Evaluations a second for so long, with what else runs meanwhile."""
    before, started_s = await evaluations(client), time.monotonic()
    await asyncio.gather(asyncio.sleep(seconds), *load)
    return (await evaluations(client) - before) / (time.monotonic() - started_s)


class Load:
    """Streams and reads, and what became of them."""

    def __init__(self, client: httpx2.AsyncClient, id: str) -> None:
        self._client = client
        self._id = id
        self.latencies_s: list[float] = []
        self.errors: list[str] = []
        self.events = 0

    async def stream(self, until_s: float) -> None:
        """Follows the job's events, and counts a gap, a break or a silence of 20 s as an error."""
        url, last = f"/v1/jobs/{self._id}/events", 0
        try:
            async with (
                asyncio.timeout_at(until_s),
                self._client.stream(
                    "GET", url, headers={"Accept": "text/event-stream"}, timeout=20.0
                ) as answer,
            ):
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    if line.startswith("id: "):
                        self.events += 1
                        if int(line[4:]) != last + 1:
                            self.errors.append(f"after event {last} came {line[4:]}")
                        last = int(line[4:])
            self.errors.append("a stream ended")
        except TimeoutError:
            pass  # the minute is over
        except httpx2.HTTPError as error:
            self.errors.append(f"stream: {error!r}")

    async def read(self, path: str) -> None:
        """One read."""
        started_s = time.monotonic()
        try:
            (await self._client.get(f"/v1/jobs/{self._id}{path}")).raise_for_status()
        except httpx2.HTTPError as error:
            self.errors.append(f"read {path}: {error!r}")
        self.latencies_s.append(time.monotonic() - started_s)

    async def reads(self, per_second: int, until_s: float) -> None:
        """Reads at fixed times, whether or not those before have been answered."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        async with asyncio.TaskGroup() as group:
            for number, path in zip(itertools.count(), itertools.cycle(READS)):
                due_s = begun_s + number / per_second
                if due_s >= until_s:
                    return
                await asyncio.sleep(due_s - loop.time())
                group.create_task(self.read(path))


async def measure(streams: int, per_second: int, seconds: float) -> dict[str, Any]:
    """The numbers of one run."""
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        spec = make_world(Path(name))
        async with served(Path(name)) as client:
            id = await searching(client, spec)
            quiet = await pace(client, seconds)
            load, until_s = Load(client, id), asyncio.get_running_loop().time() + seconds
            processor_s = time.process_time()
            readers = [load.stream(until_s) for _ in range(streams)]
            loaded = await pace(client, seconds, load.reads(per_second, until_s), *readers)
            processor_s = time.process_time() - processor_s
    percentiles = statistics.quantiles(load.latencies_s, n=100)
    return {
        "streams": streams,
        "reads": len(load.latencies_s),
        "events": load.events,
        "errors": len(load.errors),
        "first_errors": load.errors[:5],
        "read_p50_ms": 1000 * percentiles[49],
        "read_p99_ms": 1000 * percentiles[98],
        "evaluations_per_s_quiet": quiet,
        "evaluations_per_s_loaded": loaded,
        "slowdown": 1 - loaded / quiet,
        "client_processor_s": processor_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--reads", type=int, default=50, help="a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    values = asyncio.run(measure(options.streams, options.reads, options.seconds))
    for name, value in values.items():
        print(f"{name:28} {value:.3f}" if isinstance(value, float) else f"{name:28} {value}")
    if options.json:
        options.json.write_text(json.dumps(values, indent=2))


if __name__ == "__main__":
    main()
