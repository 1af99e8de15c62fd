"""Comparison of rivals: scores on the test split, bytes and speed."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from types import MappingProxyType

import torch

from ranksieve.search.errors import InputError, ScoringError
from ranksieve.workers.cost.timing import Timed, fastest, last_of, timer_for
from ranksieve.workers.machine.devices import pick_device
from ranksieve.workers.machine.extras import require_extra
from ranksieve.workers.model.sources import load_tokenizer
from ranksieve.workers.rivals.classifiers import bag_of_words, probes
from ranksieve.workers.rivals.dense import dense, eight_bits, four_bits
from ranksieve.workers.rivals.few_shot import few_shot
from ranksieve.workers.rivals.first_blocks import first_blocks
from ranksieve.workers.rivals.lora import lora
from ranksieve.workers.rivals.rival import Rival, Setup, whole
from ranksieve.workers.types.plan import EncodedTask, ModelSource
from ranksieve.workers.types.progress import Progress
from ranksieve.workers.types.scores import ScoreRequest, Scores

EXTRA = "compare"

DENSE = "dense"

SPEED_EXAMPLES, SPEED_ROUNDS = 128, 3
"""Test records that a rival and the dense model are timed on, in turn, and how often."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """Kind of rivals.

    `make` yields them, `modules` are what it imports of the extra. `chooses`: whether they need answers that are the
    same for every record.
    """

    make: Callable[[Setup], Iterator[Rival]]
    modules: tuple[str, ...] = ()
    chooses: bool = False


KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "tfidf": _Kind(make=bag_of_words, modules=("sklearn",), chooses=True),
        "probe": _Kind(make=probes, modules=("sklearn",), chooses=True),
        "first-blocks": _Kind(make=first_blocks),
        "few-shot": _Kind(make=few_shot),
        "8-bit": _Kind(make=eight_bits, modules=("bitsandbytes",)),
        "4-bit": _Kind(make=four_bits, modules=("bitsandbytes",)),
        "lora": _Kind(make=lora, modules=("peft",)),
    }
)
"""Kinds of rivals besides the dense model, quick ones first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonPlan:
    """What to compare.

    `folder`: the dense model in the working dtype. `context`: longest row in tokens, if the model states one. `kinds`:
    names of `KINDS`.
    """

    folder: Path
    dtype: str
    task: EncodedTask
    context: int | None
    chat_template: bool
    kinds: Sequence[str]
    batch_tokens: int
    threads: int
    device: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A rival on the test split.

    `kind`: "dense" or a name of `KINDS`. `settings`: see `Rival`. `tokens_per_second`: tokens of the dense model's rows
    per second. `speedup`: how many times as fast as the dense model it is. `seconds`: time to fit and choose it.
    """

    kind: str
    name: str
    settings: Mapping[str, float]
    size_bytes: int
    tokens_per_second: float
    speedup: float
    seconds: float
    scores: Scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A kind of rivals that this task or model does not allow."""

    kind: str
    reason: str


def chosen_kinds(names: Sequence[str]) -> list[str]:
    """Return the named kinds of rivals, or all; check that they can be made here.

    Raises:
        InputError: A name is unknown.
        InfrastructureError: A library of the extra is missing.
    """
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise InputError("rival", f"must be one of {', '.join(KINDS)}, got {unknown[0]!r}")
    kinds = [name for name in KINDS if name in names or not names]
    require_extra(EXTRA, sorted({module for name in kinds for module in KINDS[name].modules}))
    return kinds


def compare(plan: ComparisonPlan) -> Iterator[Progress | Compared | Skipped]:
    """Fit, score and time the dense model and its rivals, one after the other.

    Progress counts kinds of rivals; its phase is the kind that comes next.

    Args:
        plan: What to compare. Up to three models are held at a time: the dense one, the best so far and the next.

    Raises:
        ScoringError: The dense model cannot be scored.
    """
    torch.set_num_threads(plan.threads)
    device = pick_device(plan.device)
    setup = Setup(
        folder=plan.folder,
        dtype=getattr(torch, plan.dtype),
        tokenizer=load_tokenizer(ModelSource(kind="path", location=str(plan.folder))),
        task=plan.task,
        context=plan.context,
        chat_template=plan.chat_template,
        device=device,
        batch_tokens=plan.batch_tokens,
        seed=plan.seed,
    )
    reference, *helped = dense(setup)
    speed = _Speed(setup, reference, plan.threads)
    for one in (reference, *helped):
        yield _compared(DENSE, one, setup, speed, 0.0)
    del helped
    for done, name in enumerate(plan.kinds):
        yield Progress(phase=name, done=done, total=len(plan.kinds))
        kind = KINDS[name]
        if kind.chooses and not setup.chooses:
            yield Skipped(kind=name, reason="needs answers that are the same few for every record")
            continue
        started = time.perf_counter()
        try:
            for one in kind.make(setup):
                yield _compared(name, one, setup, speed, time.perf_counter() - started)
                del one  # frees its model before the next is loaded
                started = time.perf_counter()
        except ScoringError as error:
            yield Skipped(kind=name, reason=str(error))


class _Speed:
    """Timer of rivals, in turn with the dense model."""

    def __init__(self, setup: Setup, reference: Rival, threads: int) -> None:
        examples = setup.task.splits["test"][:SPEED_EXAMPLES]
        self._request = ScoreRequest(ranks=(), split="test", start=0, stop=len(examples), loss_only=True)
        self._reference, self._timer = reference, timer_for(setup.device, threads)
        tokens = sum(len(row.ids) for example in examples for row in example.rows)
        self._dense_tokens_per_second = tokens / (self._time({DENSE: reference})[DENSE] / 1e9)

    def of(self, rival: Rival) -> tuple[float, float]:
        """Return a rival's tokens/s, and how many times as fast as dense it is.

        The first is the second times the dense model's tokens/s, so that rivals that are timed one after the other can
        be compared on a busy machine.
        """
        if rival is self._reference:
            return self._dense_tokens_per_second, 1.0
        spent = self._time({DENSE: self._reference, "rival": rival})
        speedup = spent[DENSE] / spent["rival"]
        return speedup * self._dense_tokens_per_second, speedup

    def _time(self, rivals: Mapping[str, Rival]) -> dict[str, int]:
        calls = {name: Timed(run=partial(rival.score, self._request)) for name, rival in rivals.items()}
        return last_of(fastest(calls, self._timer, SPEED_ROUNDS, Random(0)))


def _compared(kind: str, rival: Rival, setup: Setup, speed: _Speed, seconds: float) -> Compared:
    scores = rival.score(whole(setup, "test"))
    tokens_per_second, speedup = speed.of(rival)
    return Compared(
        kind=kind,
        name=rival.name,
        settings=rival.settings,
        size_bytes=rival.size_bytes,
        tokens_per_second=tokens_per_second,
        speedup=speedup,
        seconds=seconds,
        scores=scores,
    )
