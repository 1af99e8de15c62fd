"""Evaluation of a model folder on a task, in this process."""

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ranksieve.search.errors import InputError
from ranksieve.workers.data.encoding import encode
from ranksieve.workers.export.reader import load_folder
from ranksieve.workers.export.verification import CHUNK, plain_scorer, score_plain
from ranksieve.workers.model.sources import context_length, load_tokenizer
from ranksieve.workers.types.plan import DataPlan, EncodedTask, ModelSource, TaskPlan
from ranksieve.workers.types.scores import ScoreRequest, Scores, join_scores


def evaluate_folder(
    folder: Path, task: TaskPlan, data: DataPlan, split: str, batch_tokens: int, threads: int
) -> tuple[str, Scores]:
    """Load a model with our own code and score it on a whole split.

    Returns:
        Name of the metric, and scores.

    Raises:
        InputError: The folder holds no model, the task does not fit it, or the split does not exist.
    """
    torch.set_num_threads(threads)
    model, tokenizer, encoded = _load(folder, task, data)
    if split not in encoded.splits:
        raise InputError("split", f"must be one of {', '.join(encoded.splits)}, got {split!r}")
    scorer = plain_scorer(model, tokenizer, encoded, batch_tokens)
    total = len(encoded.splits[split])
    starts = range(0, total, CHUNK)
    parts = [score_plain(scorer, split, start, min(start + CHUNK, total)) for start in starts]
    return encoded.metric_name, join_scores(parts)


def choose_answers(folder: Path, task: TaskPlan, data: DataPlan, count: int) -> list[tuple[str, int, int]]:
    """Let a model choose answers for the first test prompts of a choice task.

    Returns:
        (prompt, right choice, chosen choice) of each.
    """
    model, tokenizer, encoded = _load(folder, task, data)
    examples = encoded.splits["test"][:count]
    scorer = plain_scorer(model, tokenizer, encoded, batch_tokens=4096)
    _, beliefs = scorer.score_dense(ScoreRequest(ranks=(), split="test", start=0, stop=len(examples)))
    prompts = [tokenizer.decode(list(example.prompt_ids), skip_special_tokens=True) for example in examples]
    chosen = beliefs.logp_AK.argmax(axis=1).tolist()
    return [
        (str(prompt), example.label, choice)
        for prompt, example, choice in zip(prompts, examples, chosen, strict=True)
    ]


def _load(
    folder: Path, task: TaskPlan, data: DataPlan
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, EncodedTask]:
    model = load_folder(folder)
    tokenizer = load_tokenizer(ModelSource(kind="path", location=str(folder)), model.config)
    return model, tokenizer, encode(task, data, tokenizer, context_length(model.config))
