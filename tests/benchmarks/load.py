"""What a server bears while a job searches: 200 open event streams and 50 reads a second, for a minute.

    .venv/bin/python tests/benchmarks/load.py [--job tiny|small] [--rounds 3] [--seconds 60] [--json FILE]

A server of its own runs one long job on a model of random weights: `tiny` is scored some 30 times a second, which no
real model is, `small` one to three times. In every round nobody asks the server anything for `--seconds`; then all
streams are opened at once, and the load lasts as long from when they are; then the same clients ask another server that
only sends bytes (`load_clients.py`), so what they take of the machine themselves is known. The search's speed is what
`/metrics` counts in each. Processor time is that of the server's process, of the scoring actors, of the rest of Ray,
and of the clients.
Runs on a machine without other work.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CLIENTS = Path(__file__).with_name("load_clients.py")
COMMAND = Path(__file__).parents[1] / "e2e" / "tuned_command.py"
POLICY = {"rank_step": 1, "search": {"generations": 100_000, "patience": 100_000}}
WORDS = ["<unk>", "</s>", "Review", "Mood", ":", "good", "bad", *(f"word{n}" for n in range(200))]
SIZES = {"tiny": (64, 4), "small": (256, 8)}
"""Width and layers of the job's model."""

SCORED = re.compile(r'^ranksieve_evaluations_total\{outcome="scored"\} (\S+)$', re.MULTILINE)
GENERATIONS = re.compile(r"^ranksieve_generation_seconds_count (\S+)$", re.MULTILINE)
START_S = 300.0


def make_world(folder: Path, size: str) -> dict[str, Any]:
    """A model and its records in a folder; returns a job file that would search for hours."""
    torch.manual_seed(0)
    width, layers = SIZES[size]
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
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
        "search": {"max_evaluations": 10_000_000},
        "objective": {"kind": "target_params", "share": 0.4},
        "resources": {"actors": 1},
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server under test, with a job that searches."""

    url: str
    process: psutil.Process
    http: httpx2.AsyncClient
    job: str

    async def counted(self) -> dict[str, float]:
        """Evaluations and generations so far, by `/metrics`."""
        text = (await self.http.get("/metrics")).text
        found = {"evaluations": SCORED.search(text), "generations": GENERATIONS.search(text)}
        return {name: float(one[1]) if one else 0.0 for name, one in found.items()}

    def processor_s(self) -> dict[str, float]:
        """Processor time so far, in seconds, of the server's own process, its actors and the rest of Ray."""
        spent = {"server": _processor_s(self.process), "actors": 0.0, "ray": 0.0}
        for child in self.process.children(recursive=True):
            spent["actors" if "ray::" in " ".join(child.cmdline()) else "ray"] += _processor_s(child)
        return spent


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def served(folder: Path, spec: Mapping[str, Any]) -> AsyncIterator[Server]:
    """A server of its own on a free port, whose job has saved a generation."""
    command = [sys.executable, str(COMMAND), json.dumps({"policy": POLICY}), "serve", "--port", "0"]
    command += ["--data-dir", str(folder / "data"), "--root", str(folder)]
    environment = {**os.environ, "RANKSIEVE_REQUESTS_PER_SECOND": "0"}
    with (folder / "log").open("w+") as log:
        process = psutil.Popen(command, stderr=log, stdout=subprocess.DEVNULL, env=environment)
        try:
            url = await asyncio.to_thread(announced, process, folder / "log")
            async with httpx2.AsyncClient(base_url=url, timeout=30.0) as http:
                yield Server(url=url, process=process, http=http, job=await searching(http, spec))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def announced(server: psutil.Popen, log: Path) -> str:
    """The URL that a server writes to its log once it can be used."""
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and server.poll() is None:
        if found := re.search(r"ranksieve listens on (\S+)", log.read_text()):
            return found[1]
        time.sleep(0.1)  # a file tells nobody of what is written to it
    raise SystemExit(f"the server did not start:\n{log.read_text()}")


async def searching(http: httpx2.AsyncClient, spec: Mapping[str, Any]) -> str:
    """Submits the job; returns its id once its search has saved a generation."""
    answer = await http.post("/v1/jobs", json=spec)
    answer.raise_for_status()
    id = str(answer.json()["id"])
    accept = {"Accept": "text/event-stream"}
    async with http.stream("GET", f"/v1/jobs/{id}/events", headers=accept, timeout=START_S) as lines:
        async for line in lines.aiter_lines():
            if line == "event: generation.completed":
                return id
    raise SystemExit(f"the job ended before it searched: {(await http.get(f'/v1/jobs/{id}')).text}")


@asynccontextmanager
async def stub(per_second: float) -> AsyncIterator[str]:
    """The URL of a server that only sends bytes, so many events a second."""
    command = [sys.executable, str(CLIENTS), "stub", "--per-second", str(per_second)]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    yield (await process.stdout.readline()).decode().strip()
    process.stdin.close()
    await process.wait()


async def clients(kind: str, url: str, job: str, seconds: float, *options: str) -> asyncio.subprocess.Process:
    """Clients of a kind, in a process of their own."""
    command = [sys.executable, str(CLIENTS), kind, url, job, "--seconds", str(seconds), *options]
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)


async def answer_of(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """What clients saw."""
    seen, _ = await process.communicate()
    assert process.returncode == 0, "clients failed"
    return dict(json.loads(seen))


async def phase(server: Server, url: str | None, load: argparse.Namespace) -> dict[str, Any]:
    """The search's speed, and who took how much of the processor, while clients ask `url`; None: while none do."""
    opened_s, open_streams = 0.0, None
    if url is not None:
        open_streams = await clients("streams", url, server.job, load.seconds, "--count", str(load.streams))
        assert open_streams.stdout is not None
        opened_s = float(await open_streams.stdout.readline())
    counted, spent, begun_s = await server.counted(), server.processor_s(), time.monotonic()
    if url is None or open_streams is None:
        await asyncio.sleep(load.seconds)
        seen: Sequence[dict[str, Any]] = []
    else:
        reads = await clients("reads", url, server.job, load.seconds, "--per-second", str(load.reads))
        seen = await asyncio.gather(answer_of(open_streams), answer_of(reads))
    seconds, spent_after = time.monotonic() - begun_s, server.processor_s()
    processors = {name: (after - spent[name]) / seconds for name, after in spent_after.items()}
    processors["clients"] = sum(kind["processor_s"] for kind in seen) / seconds
    rates = {
        f"{name}_per_s": (after - counted[name]) / seconds for name, after in (await server.counted()).items()
    }
    return {
        **rates,
        "processors": processors,
        "opened_s": opened_s,
        "events": sum(kind.get("events", 0) for kind in seen),
        "latencies_ms": [1000 * taken for kind in seen for taken in kind.get("latencies_s", [])],
        "errors": [error for kind in seen for error in kind["errors"]],
    }


async def measure(load: argparse.Namespace) -> list[dict[str, Any]]:
    """The rounds: in each, by name, what was measured quiet, loaded, and with the stub under load."""
    rounds = []
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        async with served(Path(name), make_world(Path(name), load.job)) as server:
            for _ in range(load.rounds):
                quiet = await phase(server, None, load)
                loaded = await phase(server, server.url, load)
                async with stub(max(quiet["generations_per_s"], 0.1)) as url:
                    rounds.append({"quiet": quiet, "loaded": loaded, "stub": await phase(server, url, load)})
    return rounds


def show(rounds: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table of the rounds."""
    names = ["evaluations/s", "slowed by", "opened, s", "p50, ms", "p99, ms", "errors", "events"]
    print(" | ".join(["|", *names, "server", "actors", "Ray", "clients |"]))
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for phases in rounds:
        for name, one in phases.items():
            pace = one["evaluations_per_s"]
            cells = [f"{pace:.2f}", f"{1 - pace / phases['quiet']['evaluations_per_s']:.1%}"]
            cells += [f"{one['opened_s']:.2f}"]
            quantiles = statistics.quantiles(one["latencies_ms"] or [0, 0], n=100)
            cells += [
                f"{quantiles[49]:.0f}",
                f"{quantiles[98]:.0f}",
                f"{len(one['errors'])}",
                f"{one['events']:,}",
            ]
            cells += [f"{share:.3f}" for share in one["processors"].values()]
            print(f"| {name} | {' | '.join(cells)} |")
            for error in one["errors"][:5]:
                print("error:", error)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--job", choices=list(SIZES), default="tiny")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--reads", type=float, default=50, help="a second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rounds = asyncio.run(measure(options))
    show(rounds)
    if options.json:
        options.json.write_text(json.dumps(rounds, indent=2))


if __name__ == "__main__":
    main()
