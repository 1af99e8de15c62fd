"""A job that is all there and takes seconds: a random Llama, a few records, a search of three generations."""

import json
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from tuning import front, tune

from ranksieve.service.spec import JobSpec
from ranksieve.service.spec.resources import BATCH_TOKENS

NUMBERS = [str(number) for number in range(200)]
WORDS = ["<unk>", "</s>", "Review", "Mood", ":", "film", "good", "bad", *NUMBERS]
CONFIG = {
    "vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16,
    "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
"""A Llama of 16 tokens of context, for tests that need a model but not its answers."""

SPLITS = {"calibration": 800, "search": 192, "confirm": 64, "test": 64}
"""Enough of them for calibration to have two shards."""

CPU_BATCH_TOKENS = 64

OBJECTIVES = [
    {"kind": "target_params", "share": 0.4},
    {"kind": "max_drop", "points": 30.0},
    {"kind": "pareto", "points": 30.0},
]


def save_model(folder: Path, **options: Any) -> None:
    """Save a model of random weights and its tokenizer, of a token a word."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**CONFIG | options)).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    tokenizer.save_pretrained(folder)


def make_world(folder: Path) -> None:
    """Writes `model/` and `films.jsonl`."""
    save_model(folder / "model", initializer_range=0.3)
    rng = Random(0)
    records = [
        {"text": f"film {' '.join(rng.choices(NUMBERS, k=8))}", "label": rng.choice(["good", "bad"])}
        for _ in range(sum(SPLITS.values()))
    ]
    (folder / "films.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")


def mood_task(sizes: dict[str, int]) -> dict[str, Any]:
    """Return the task of records in `films.jsonl`."""
    return {
        "kind": "choice",
        "prompt": "Review: {{ text }} Mood:",
        "answer": "{{ label }}",
        "choices": ["good", "bad"],
        "data": {"source": {"path": "films.jsonl"}, "sizes": sizes},
    }


def document_of(seed: int) -> dict[str, Any]:
    """A job file on two actors; the objective goes by the seed, and every second one trains."""
    search = {"population": 3, "offspring": 4, "generations": 3, "patience": 9}
    return {
        "name": f"crash-{seed}",
        "model": {"path": "model", "dtype": "float32"},
        "task": mood_task(SPLITS),
        "effort": "quick" if seed % 2 == 1 else "normal",
        "policy": {"rank_step": 1, "search": search},
        "search": {"max_evaluations": 50},
        "seed": seed,
        "objective": OBJECTIVES[seed % len(OBJECTIVES)],
        "resources": {"actors": 2},
    }


def spec_of(seed: int) -> JobSpec:
    """The job of `document_of`.

    Puts the constants of all such jobs in force in this process.
    """
    BATCH_TOKENS["cpu"] = CPU_BATCH_TOKENS
    front(smallest=0.3, sizes=3, finalists=2)
    return JobSpec.model_validate(tune(document_of(seed)))
