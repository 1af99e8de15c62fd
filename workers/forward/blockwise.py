"""Runs of a model block by block, holding one block's activations at a time.

Legend: B rows, L padded length, T real tokens, D input width.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.forward.batches import Batch, make_batches
from ranksieve.workers.forward.likelihood import logits_read
from ranksieve.workers.machine.devices import accelerator_fault, lack_of_memory
from ranksieve.workers.model.experts import expert_of
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.types.plan import Example

ROWS = 2048
"""Rows to join: adding up products of fewer rows takes about as long as computing them."""


def blocks_of(model: PreTrainedModel, matrix: MatrixShape) -> list[nn.Module]:
    """Return all blocks of the list that a matrix belongs to."""
    blocks = model.get_submodule(matrix.name.removesuffix(f".{matrix.layer}.{matrix.kind}"))
    return list(blocks.children())


def flows_of(
    model: SwitchableModel,
    candidates: Sequence[Sequence[int]],
    examples: Sequence[Example],
    batch_tokens: int,
) -> list["Flow"]:
    """Return a flow of each candidate, in front of the first block.

    They share their batches.

    Args:
        model: Runs at the ranks of the flows.
        candidates: Ranks of each candidate.
        examples: At least one.
        batch_tokens: Padded tokens per forward pass.
    """
    batches = make_batches(examples, max(example.choices for example in examples), batch_tokens)
    batches = [batch.to(model.model.device) for batch in batches]
    blocks = blocks_of(model.model, model.matrices[0])
    return [Flow(model, ranks, blocks, batches) for ranks in candidates]


class _ReachedError(Exception):
    """Signal that a forward pass has reached the wanted module."""


class BlockwiseError(ScoringError):
    """Failure of a model whose code cannot skip blocks."""


@contextmanager
def _blockwise() -> Iterator[None]:
    """Turn a model's errors into `BlockwiseError`, except those of the machine.

    Raises:
        BlockwiseError: The model cannot be run block by block.
    """
    try:
        yield
    except _ReachedError:
        raise
    except Exception as error:
        if lack_of_memory(error) or accelerator_fault(error):
            raise
        raise BlockwiseError(
            f"the model cannot be run block by block: {type(error).__name__}: {error}"
        ) from error


class Flow:
    """Model at some ranks, all batches in front of one block.

    The output of the previous block is kept per batch. To run the block, the whole model is called, and every block
    before it returns the kept output: so each architecture passes its own masks and positions to its blocks.
    """

    def __init__(
        self,
        model: SwitchableModel,
        ranks: Sequence[int],
        blocks: Sequence[nn.Module],
        batches: Sequence[Batch],
    ) -> None:
        self.batches = batches
        self.blocks = blocks
        self._model = model
        self._ranks = ranks
        self._block = 0
        self._kept: list[Any] = [None] * len(batches)
        self._skipped = model.skipped(ranks)

    def __len__(self) -> int:
        return len(self.batches)

    def runs(self, name: str) -> bool:
        """Return whether a matrix is run, maybe at rank 0.

        It is not if its whole sublayer is skipped.
        """
        return name not in self._skipped

    def input_of(self, name: str, index: int) -> torch.Tensor:
        """Return the input of a matrix of the block, real tokens only, T×D."""
        x_BLD, _ = self._run_until(self._model.model.get_submodule(name), index)
        return self._real(x_BLD, index)

    def groups(self, names: Iterable[str]) -> list[list[str]]:
        """Group matrices of the block that read one activation, in the order of running.

        They must read all of its tokens, once.

        Experts are left out: the expert of a token differs between models.
        """
        read: list[tuple[torch.Tensor, list[str]]] = []

        def note(name: str) -> Callable[..., None]:
            def before_forward(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
                if args[0].shape[:-1].numel() != self.batches[0].mask_BL.numel():
                    return  # it reads an unknown selection of tokens
                if not read or read[-1][0] is not args[0]:
                    read.append((args[0], []))
                read[-1][1].append(name)

            return before_forward

        for_all = [name for name in names if expert_of(self._model.model, name) is None]
        with pre_hooks(self._model.model, for_all, note):
            self._run_until(self.blocks[self._block], 0)
        runs = Counter(name for _, group in read for name in group)
        once = [[name for name in group if runs[name] == 1] for _, group in read]
        return [group for group in once if group]

    def advance(self, names: Sequence[str] = ()) -> dict[str, list[torch.Tensor]]:
        """Run all batches through the block; return the inputs of these matrices.

        The inputs are on the host, T×D per batch.
        """
        seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        for index in range(len(self)):

            def note(name: str, index: int = index) -> Callable[..., None]:
                return lambda _, args: seen[name].append(self._real(args[0], index).cpu())

            with pre_hooks(self._model.model, names, note):
                _, self._kept[index] = self._run_until(self.blocks[self._block], index)
        self._block += 1
        return seen

    def logits_read(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of a batch's answer tokens, like `forward.likelihood`.

        The flow must be behind the last block.
        """
        self._model.switch(self._ranks)
        model, batch = self._model.model, self.batches[index]
        inputs: dict[str, Any] = {"input_ids": batch.ids_BL, "use_cache": False}
        if getattr(model.config.get_text_config(), "output_router_logits", False):
            inputs["output_router_logits"] = False  # no router runs
        with _blockwise(), _answering(self.blocks[: self._block], self._kept[index]):
            return logits_read(model, batch.row_N, batch.position_N, **inputs)

    def _real(self, x_BLD: torch.Tensor, index: int) -> torch.Tensor:
        return x_BLD.flatten(0, -2)[self.batches[index].mask_BL.flatten().to(x_BLD.device)]

    def _run_until(self, module: nn.Module, index: int) -> tuple[torch.Tensor, Any]:
        """Return the first argument and the output of a module; run nothing behind it."""
        caught: list[tuple[torch.Tensor, Any]] = []

        def stop(_: nn.Module, args: tuple[torch.Tensor, ...], output: Any) -> None:
            caught.append((args[0], output))
            raise _ReachedError

        self._model.switch(self._ranks)
        hook = module.register_forward_hook(stop)
        try:
            with _blockwise(), _answering(self.blocks[: self._block], self._kept[index]):
                self._model.model(input_ids=self.batches[index].ids_BL, use_cache=False)
        except _ReachedError:
            return caught[0]
        finally:
            hook.remove()
        raise BlockwiseError("the model cannot be run block by block: it skips a block")


@dataclass(frozen=True, slots=True)
class Group:
    """Matrices of a block that read the same activation.

    Iterating yields, for one smaller model after the other, their inputs with its current factors and their inputs in
    the dense model, T×D each, some batches at once. `places`: the smaller models that run any of them, each with a
    matrix that it runs.
    """

    names: Sequence[str]
    places: Sequence[tuple[Flow, str]]
    dense_TD: Sequence[torch.Tensor]

    def __iter__(self) -> Iterator[Sequence[torch.Tensor]]:
        return _together(self._pairs())

    def read_dense(self) -> Iterator[torch.Tensor]:
        """Yield the matrices' inputs in the dense model, T×D."""
        for (dense_TD,) in _together([x_TD] for x_TD in self.dense_TD):
            yield dense_TD

    def _pairs(self) -> Iterator[list[torch.Tensor]]:
        for flow, name in self.places:
            for index in range(len(flow)):
                x_TD = flow.input_of(name, index)
                yield [x_TD, self.dense_TD[index].to(x_TD.device)]


def _together(batches: Iterable[Sequence[torch.Tensor]]) -> Iterator[Sequence[torch.Tensor]]:
    """Join successive batches of tensors with equal rows, up to `ROWS` rows."""
    some: list[Sequence[torch.Tensor]] = []
    for batch in batches:
        if some and sum(len(first) for first, *_ in (*some, batch)) > ROWS:
            joined, some = _joined(some), []  # frees the single batches
            yield joined
        some.append(batch)
    if some:
        yield _joined(some)


def _joined(batches: Sequence[Sequence[torch.Tensor]]) -> Sequence[torch.Tensor]:
    return batches[0] if len(batches) == 1 else [torch.cat(columns) for columns in zip(*batches, strict=True)]


def side_by_side(
    smaller: Sequence[Flow], dense: Flow, names: Sequence[Sequence[str]]
) -> Iterator[list[Group]]:
    """Take smaller models and the dense one through their blocks; yield their groups.

    A smaller model is run through a block only when the next block's groups are requested, with its factors of then.
    The dense inputs are dropped then, so a block's groups must not be used later.

    Args:
        smaller: At least one, in front of the first block; afterwards behind the last.
        dense: The dense model's flow, in front of the first block, too.
        names: Wanted matrices of each block; those that no smaller model runs are left out.
    """
    for wanted in names:
        groups = dense.groups(wanted)
        read = dense.advance([group[0] for group in groups])
        yield [_group(group, smaller, read[group[0]]) for group in groups]
        for rows_TD in read.values():
            rows_TD.clear()  # the caller may still hold the groups
        for flow in smaller:
            flow.advance()


def _group(names: Sequence[str], smaller: Sequence[Flow], dense_TD: Sequence[torch.Tensor]) -> Group:
    run = [(flow, [name for name in names if flow.runs(name)]) for flow in smaller]
    anywhere = {name for _, some in run for name in some}
    return Group(
        [name for name in names if name in anywhere],
        [(flow, some[0]) for flow, some in run if some],
        dense_TD,
    )


@contextmanager
def pre_hooks(
    model: PreTrainedModel, names: Iterable[str], make: Callable[[str], Callable[..., None]]
) -> Iterator[None]:
    """Call `make(name)` before the forward of each of these modules."""
    with ExitStack() as hooks:
        for name in names:
            hooks.enter_context(model.get_submodule(name).register_forward_pre_hook(make(name)))
        yield


@contextmanager
def _answering(blocks: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Let blocks return a value without running."""
    for block in blocks:
        block.forward = lambda *_, **__: output
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
