"""A small language model that has learned a small task, its records, and the program as a user runs it."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any, TextIO

import psutil
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ranksieve.api.client.client import Client

SPECIALS = ["<unk>", "<s>", "</s>"]
POLAR = {"good": [f"fine{i}" for i in range(20)], "bad": [f"poor{i}" for i in range(20)]}
VOCABULARY = [*SPECIALS, "Review", "Mood", ":", *POLAR, *POLAR["good"], *POLAR["bad"]]
WORDS_PER_REVIEW = 7
RECORDS = 2500
MISLABELLED = 0.05  # no model is right about these
STEPS, BATCH = 120, 64
LAST_GENERATION = 4
BATCH_TOKENS = 48  # few, so that a search takes long enough to be disturbed
TUNED_COMMAND = Path(__file__).with_name("tuned_command.py")
EXIT_TIMEOUT_S = 30
RAY_AGENTS, RAY_STARTING = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}, "default_worker.py"

Document = dict[str, Any]
OncePerRun = Callable[[str, Callable[[Path], None]], Path]


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The folder with `model/` and `reviews.jsonl`."""

    folder: Path


@pytest.fixture(scope="session")
def world(once_per_run: OncePerRun) -> World:
    """A trained model and records it has not seen, made in seconds."""
    return World(folder=once_per_run("world", _make_world))


def _make_world(folder: Path) -> None:
    records = _records(random.Random(0))
    lines = [json.dumps(record) for record in records[:RECORDS]]
    (folder / "reviews.jsonl").write_text("\n".join(lines))
    tokenizer = _tokenizer()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other cost more than they save on so small a model
    model = _trained(tokenizer, records[RECORDS:])
    torch.set_num_threads(threads)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


@pytest.fixture(scope="session")
def base_spec(world: World) -> Document:
    """A job of a few seconds: the smallest model that loses at most five points."""
    return {
        "name": "moods",
        "model": {"path": str(world.folder / "model"), "dtype": "float32"},
        "task": {
            "kind": "choice",
            "prompt": "Review: {{ text }} Mood:",
            "answer": "{{ label }}",
            "choices": ["good", "bad"],
            "data": {
                "source": {"path": str(world.folder / "reviews.jsonl")},
                "sizes": {"calibration": 64, "search": 256, "confirm": 512, "test": 512},
            },
        },
        "policy": {
            "rank_step": 1,
            "search": {
                "population": 4, "offspring": 6, 
                "generations": LAST_GENERATION, "max_evaluations": 1000, "patience": 100,
            },
        },
        "seed": 3,
        "objective": {"kind": "max_drop", "points": 5.0},
        "resources": {"actors": 2},
    }  # fmt: skip


@pytest.fixture
def spec(base_spec: Document) -> Document:
    """A copy of `base_spec` to change."""
    return deepcopy(base_spec)


@pytest.fixture(scope="session")
def constants(base_spec: Document) -> Document:
    """What a process needs for `base_spec`; see `tuned_command.py`."""
    return {"policy": base_spec["policy"], "batch_tokens": BATCH_TOKENS}


@pytest.fixture(scope="session")
def job_file(base_spec: Document, world: World) -> Path:
    """`base_spec` as a job file, which has no `policy`, beside the model that it names; JSON is YAML."""
    file = world.folder / f"moods-{os.getpid()}.yaml"
    file.write_text(json.dumps({key: value for key, value in base_spec.items() if key != "policy"}))
    return file


@pytest.fixture(scope="session")
def ran(
    ranksieve: Callable[..., subprocess.CompletedProcess[str]],
    job_file: Path,
    constants: Document,
    once_per_run: OncePerRun,
) -> subprocess.CompletedProcess[str]:
    """`ranksieve run JOB_FILE --json`, with two actors, once for all tests."""

    def run(folder: Path) -> None:
        options = ("--json", "--data-dir", folder / "data")
        done = ranksieve("run", job_file, *options, constants=constants)
        (folder / "done.json").write_text(json.dumps([done.returncode, done.stdout, done.stderr]))

    returncode, stdout, stderr = json.loads((once_per_run("ran", run) / "done.json").read_text())
    return subprocess.CompletedProcess(["ranksieve"], returncode, stdout, stderr)


@pytest.fixture(scope="session")
def result(ran: subprocess.CompletedProcess[str]) -> Document:
    """The result of the job that nothing happened to."""
    assert ran.returncode == 0, ran.stderr
    result: Document = json.loads(ran.stdout)
    return result


@pytest.fixture(scope="session")
def ranksieve() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the installed command in a process of its own, or one with other constants."""

    def run(*arguments: Any, constants: Document | None = None) -> subprocess.CompletedProcess[str]:
        command = [*_command(constants), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerProcess:
    """A `ranksieve serve` of its own, and where it listens."""

    process: psutil.Popen
    url: str

    def client(self) -> Client:
        """A client of it."""
        return Client(self.url)

    def actors(self) -> list[psutil.Process]:
        """The scoring actors under this server, and no other's."""
        below = self.process.children(recursive=True)
        return [process for process in below if _title(process).startswith("ray::ScoringActor")]

    def raylets(self) -> list[psutil.Process]:
        """What starts the workers of this server's own Ray."""
        return [process for process in self.process.children(recursive=True) if process.name() == "raylet"]

    def kill(self) -> None:
        """SIGKILL to the server alone, then a wait until all that worked for it is gone too."""
        below = self.process.children(recursive=True)
        agents = [process for process in below if _is_no_worker(_title(process))]
        self.process.kill()
        self.process.wait(EXIT_TIMEOUT_S)
        _, alive = psutil.wait_procs([p for p in below if p not in agents], timeout=EXIT_TIMEOUT_S)
        assert not alive, f"outlived the server: {[_title(process) for process in alive]}"
        for agent in agents:  # they only end once they gave up on reaching Ray's head
            with suppress(psutil.NoSuchProcess):
                agent.kill()


@pytest.fixture(scope="session")
def serve(world: World, constants: Document) -> Callable[[Path], AbstractContextManager[ServerProcess]]:
    """Starts a server on a data directory for as long as a `with` block lasts."""

    @contextmanager
    def start(data_dir: Path) -> Iterator[ServerProcess]:
        command = [*_command(constants), "serve", "--port", "0", "--data-dir", str(data_dir)]
        command += ["--root", str(world.folder)]
        announced: Queue[str | None] = Queue()
        process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        log = data_dir.with_suffix(".log")
        reader = threading.Thread(target=_read_log, args=(process.stderr, log, announced))
        reader.start()
        try:
            url = announced.get()
            assert url is not None, f"the server ended before it listened: {log.read_text()}"
            yield ServerProcess(process=process, url=url)
        finally:
            if process.is_running():
                process.terminate()
            process.wait(EXIT_TIMEOUT_S)
            reader.join(EXIT_TIMEOUT_S)

    return start


@pytest.fixture(scope="session")
def essence() -> Callable[[Document], Document]:
    """What has to be the same when a job is run again: everything but times, places and speeds."""

    def of(result: Document) -> Document:
        kept = {name: result[name] for name in ("genome", "evaluations", "tokens", "data", "promise_held")}
        for model in ("dense", "best"):
            kept[model] = {k: v for k, v in result[model].items() if k != "tokens_per_second"}
        return kept

    return of


def _read_log(stream: TextIO, log: Path, announced: "Queue[str | None]") -> None:
    """Keeps what a server says, and passes on the URL that it announces."""
    with stream, log.open("a") as sink:
        for line in stream:
            sink.write(line)
            sink.flush()
            if "listens on " in line:
                announced.put(line.rsplit(" ", 1)[1].strip())
    announced.put(None)


def _command(constants: Document | None) -> list[str]:
    if constants is not None:
        return [sys.executable, str(TUNED_COMMAND), json.dumps(constants)]
    found = shutil.which("ranksieve", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    assert found is not None, "the ranksieve command is not installed beside this Python"
    return [found]


def _is_no_worker(title: str) -> bool:
    """Whether a process does no work: an agent of Ray's, or a worker that is still importing Ray."""
    return title.split()[0] in RAY_AGENTS or RAY_STARTING in title


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.NoSuchProcess:
        return "gone"


def _records(rng: random.Random) -> list[Document]:
    """Reviews that mostly have the mood of most of their words; enough to train on and to keep apart."""
    records = []
    for number in range(RECORDS + STEPS * BATCH):
        label = rng.choice(list(POLAR))
        other = "bad" if label == "good" else "good"
        majority = rng.choice([4, 5, 5, 6, 7])
        words = rng.choices(POLAR[label], k=majority)
        words += rng.choices(POLAR[other], k=WORDS_PER_REVIEW - majority)
        rng.shuffle(words)
        written_label = other if rng.random() < MISLABELLED else label
        records.append({"id": number, "text": " ".join(words), "label": written_label})
    return records


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token per word."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    backend.add_special_tokens(SPECIALS)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
    )


def _trained(tokenizer: PreTrainedTokenizerFast, records: list[Document]) -> LlamaForCausalLM:
    """A Llama that tells the mood and then stops, trained on texts in the form of the task's prompt."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    texts = [f"Review: {record['text']} Mood: {record['label']} </s>" for record in records]
    ids_NL = torch.tensor([tokenizer(text)["input_ids"] for text in texts])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=STEPS)
    for ids_BL in ids_NL.split(BATCH):
        output = model(input_ids=ids_BL, labels=ids_BL)
        loss = output.loss + torch.nn.functional.cross_entropy(output.logits[:, -3], ids_BL[:, -2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()
