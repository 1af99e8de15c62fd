"""The example job files: each runs as it is, on data of its script and tiny models in the place of those it names.

Only what depends on the machine or on the size of the model is replaced, beside constants of the search. The one with
constraints counts on 30 layers; `test_search_plan.py` holds it on the shapes of its model.
"""

import re
import runpy
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_hub import Hub, looking_elsewhere, serving
from gguf_file import save_gguf
from local_jobs import Jobs, LocalCluster
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from tuning import tune

from ranksieve.api.cli.spec_file import load_spec
from ranksieve.search.errors import InputError
from ranksieve.service import wiring
from ranksieve.service.application import Application
from ranksieve.service.pipeline.checking import check_job, settled_sizes
from ranksieve.service.pipeline.pipeline import run_job
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.feed import Feed
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.service.spec.model import ModelSpec
from ranksieve.service.store import Store
from ranksieve.workers.cost import latency_measurement
from ranksieve.workers.export import verification
from ranksieve.workers.types.metrics import FIELD_F1, METRIC_NAMES

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RECORDS = 100
FETCHED = ("gated_model", "gpu_cluster")
"""Examples whose models come from a hub; fetching takes seconds, so those of others are folders."""

NAMES = sorted(file.stem for file in EXAMPLES.glob("*.yaml"))
TINY_SIZE = {"kind": "target_bytes", "size": "44 kB"}

SEARCH = {
    "population": 3, "offspring": 4, "generations": 0, "max_evaluations": 20,
    "patience": 20,
}  # fmt: skip


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data files, as their script makes them, but short."""
    folder = tmp_path_factory.mktemp("examples") / "data"
    runpy.run_path(str(EXAMPLES / "make_data.py"))["make_data"](folder, RECORDS)
    return folder


@pytest.fixture(scope="session")
def tokenizer(data: Path) -> PreTrainedTokenizerFast:
    """Byte-level pairs of the data, with a chat template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=["</s>", "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train([str(file) for file in sorted(data.glob("*.jsonl"))], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", chat_template=CHAT_TEMPLATE)


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, bos_token_id=None, eos_token_id=0, pad_token_id=0,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, which the library looks at."""
    with serving() as served, looking_elsewhere(monkeypatch, tmp_path) as look:
        look(served.server_port)
        yield served


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A folder with the examples and their data, a hub, and a server that reads them."""

    folder: Path
    hub: Hub
    settings: Settings
    tokenizer: PreTrainedTokenizerFast

    def load(self, name: str) -> JobSpec:
        """The job of a file, on one processor in the dtype that any processor has."""
        document = load_spec(self.folder / f"{name}.yaml", [self.folder]).canonical()
        document["resources"] = {"actors": 1, "gpus_per_actor": 0}
        if name == "size":
            document["objective"] = TINY_SIZE
        if name not in FETCHED:
            document["model"] |= {"dtype": "float32"}
            if document["model"].pop("hub", None) is not None:
                document["model"]["path"] = str(self.folder / "models" / "tiny")
        return JobSpec.model_validate(document)

    def provide(self, model: ModelSpec) -> None:
        """Put tiny models where an example looks for its own."""
        if model.hub is not None:
            self._save(served := self.folder / "served")
            files = {file.name: file.read_bytes() for file in served.iterdir()}
            self.hub.push(files, model.revision or "main", id=model.hub)
            return
        assert model.path is not None
        Path(model.path).parent.mkdir()
        if model.path.endswith(".gguf"):
            save_gguf(make_model(), Path(model.path))
        else:
            self._save(Path(model.path))
        if model.adapter is not None:
            peft = pytest.importorskip("peft", reason="needs the extra adapter")
            config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
            peft.get_peft_model(make_model(), config).save_pretrained(model.adapter)

    def _save(self, folder: Path) -> None:
        make_model().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


@pytest.fixture
def world(data: Path, tokenizer: PreTrainedTokenizerFast, hub: Hub, tmp_path: Path) -> World:
    not_shipped = shutil.ignore_patterns("data", "models")
    folder = Path(shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=not_shipped))
    shutil.copytree(data, folder / "data")
    settings = Settings(data_dir=tmp_path / "server", roots=[folder])
    settings.data_dir.mkdir()
    return World(folder=folder, hub=hub, settings=settings, tokenizer=tokenizer)


def test_the_table_names_every_example() -> None:
    table = (EXAMPLES / "README.md").read_text()
    assert sorted(re.findall(r"^\| \[(\w+)\.yaml\]\(\1\.yaml\)", table, re.MULTILINE)) == NAMES


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
@pytest.mark.usefixtures("_unsynced_files")
@pytest.mark.parametrize("name", [name for name in NAMES if name != "constrained"])
def test_an_example_runs(
    name: str,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    make_flop_timer: Any,
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(latency_measurement, "ROUNDS", 1)
    monkeypatch.setattr(verification, "LATENCY_ROUNDS", 1)
    monkeypatch.setenv("HF_TOKEN", world.hub.TOKEN)
    world.hub.gated = True
    spec = world.load(name)
    world.provide(spec.model)
    spec = spec.with_sizes(settled_sizes(world.settings, spec))
    jobs = Jobs(Store(world.settings.store_url), world.settings)
    id = jobs.submit(spec.canonical() | {"policy": {"rank_step": 1, "search": SEARCH}})
    result = jobs.run(LocalCluster(make_timer=make_flop_timer))
    (verified,) = jobs.events(id, "artifact.verified")
    jobs.store.close()
    expected = FIELD_F1 if name == "extraction" else METRIC_NAMES[spec.task.kind]
    assert result["metric_name"] == expected
    assert verified["metric"] == pytest.approx(verified["expected"])
    assert (Path(result["artifact"]) / "model.safetensors").is_file()


@pytest.mark.usefixtures("_unsynced_files")
def test_the_notebook_runs(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_flop_timer: Any
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    cluster = LocalCluster(make_timer=make_flop_timer)

    def build(settings: Settings, *, in_children: bool) -> Application:
        def settle(spec: JobSpec, cancelled: Any) -> JobSpec:
            spec = spec.on_cluster([{"CPU": 1}])
            return spec.with_sizes(settled_sizes(settings, spec))

        store = Store(settings.store_url)
        run: Any = partial(run_job, settings, cluster)
        controller = Controller(store, run, settings.jobs_dir)
        return Application(settings, store, controller, Feed(), settle, lambda spec, cancelled: {})

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(wiring, "build", build)
    monkeypatch.chdir(world.folder)
    world.provide(load_spec(Path("sentiment.yaml")).model)
    tune({"policy": {"rank_step": 1, "search": SEARCH}})
    ran = runpy.run_path("notebook.py")
    assert len(ran["scored"]) >= ran["sieved"].result["evaluations"] > 0
    assert Path("ranks.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(("name", "several_lines"), [("chat", True), ("extraction", False)])
def test_answers_end_as_the_example_says(name: str, several_lines: bool, world: World) -> None:
    spec = world.load(name)
    world.provide(spec.model)
    task = check_job(world.settings, spec).task
    assert task.several_lines is several_lines
    examples = [example for split in task.splits.values() for example in split]
    assert all(map(task.can_be_written, examples))
    text = world.tokenizer.decode(list(examples[0].prompt_ids))
    assert text.startswith("<|system|>You keep a shopping list.</s><|user|>I need") is several_lines
    assert text.endswith("</s><|assistant|>") is several_lines


def test_a_gated_model_needs_a_token(world: World) -> None:
    world.hub.gated = True
    spec = world.load("gated_model")
    world.provide(spec.model)
    with pytest.raises(InputError, match=r"'google/gemma-3-1b-it' is gated.*HF_TOKEN"):
        settled_sizes(world.settings, spec)
