"""Streamed pass over the calibration examples that gathers every matrix's Grams.

Legend: B rows, L padded length, T real tokens, D input width, O output width, K = min(O, D), N answer tokens,
V vocabulary, S examples of a batch, C choices.

A matrix y = W x is seen from its narrow side, where both Grams are K×K and nothing of its wide side is ever formed:

    O ≤ D    at its output:  E[(Wx)(Wx)ᵀ] and E[g gᵀ]       g = ∂loss/∂y
    O > D    at its input:   E[x xᵀ] and E[(Wᵀg)(Wᵀg)ᵀ]     Wᵀg: what the matrix passes back

The loss is `workers.factors.fisher.loss_of`.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ranksieve.search.errors import InputError, ScoringError
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.factors.fisher import answers_of, loss_of
from ranksieve.workers.factors.grams import Grams, GramSum
from ranksieve.workers.factors.midway import dense_module, gradient_share
from ranksieve.workers.factors.passes import gram_width
from ranksieve.workers.forward.batches import Batch, make_batches
from ranksieve.workers.forward.likelihood import answer_logits
from ranksieve.workers.model.experts import expert_of
from ranksieve.workers.model.matrices import LinearModule, weight_OD
from ranksieve.workers.types.plan import Example


class Calibrator:
    """Gatherer of Grams by hooks, which live as long as the `with` block.

    Args:
        model: The dense model in its working dtype, or a model midway to a smaller one, see `workers.factors.midway`.
        matrices: Matrices to watch.
    """

    def __init__(self, model: PreTrainedModel, matrices: Sequence[MatrixShape]) -> None:
        self.grams = Grams()
        self._model = model
        self._at_output = {matrix.name: matrix.out_features <= matrix.in_features for matrix in matrices}
        self._widths = {matrix.name: gram_width(matrix) for matrix in matrices}
        experts = {matrix.name: expert_of(model, matrix.name) for matrix in matrices}
        self._experts = {name: expert for name, expert in experts.items() if expert is not None}
        self._mask_BL: torch.Tensor | None = None  # while watching
        self._tokens_T: torch.Tensor | None = None  # where the mask is true, once B and L are flattened
        self._last_input: tuple[str, torch.Tensor] | None = None
        # tokens of the last expert, and the real ones among them: its matrices run one after the other
        self._last_sent: tuple[torch.Tensor, torch.Tensor] | None = None
        self._batch = 0
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "Calibrator":
        for name, at_output in self._at_output.items():
            module = dense_module(self._model, name)
            self._handles.append(
                module.register_forward_hook(self._watch_output(name))
                if at_output
                else module.register_forward_pre_hook(self._watch_input(name))
            )
        embedding = self._model.get_input_embeddings()
        self._handles.append(embedding.register_forward_hook(_require_grad))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def run(
        self,
        kind: str,
        examples: Sequence[Example],
        batch_tokens: int,
        seed: int,
        shard: range | None = None,
    ) -> Iterator[tuple[int, int]]:
        """Stream the examples through the model; yield (batches done, all batches).

        Args:
            kind: Kind of the task.
            examples: The whole calibration split, which determines the batches.
            batch_tokens: Padded tokens of a batch.
            seed: Seeds the draws of each batch, with the batch's number.
            shard: The batches to run, by number; None for all.

        Raises:
            ScoringError: An activation, gradient or logit is not finite; names the matrix, if any, and the batch.
            InputError: A matrix does not run once on every token.
        """
        max_choices = max(example.choices for example in examples)
        batches = make_batches(examples, max_choices, batch_tokens)
        shard = range(len(batches)) if shard is None else shard
        for done, self._batch in enumerate(shard, start=1):
            batch = batches[self._batch].to(self._model.device)
            self._pass(kind, examples, batch, max_choices, _generator(seed, self._batch, self._model.device))
            for name in self._at_output:
                if name in self._experts:
                    continue
                if name not in self.grams.forward and name not in self.grams.forward_of:
                    raise _not_prunable(name, "was not called: the model reads its weight by itself")
                if name not in self.grams.backward:
                    raise _not_prunable(name, "has no gradient of the loss")
            yield done, len(shard)
        self._add_unreached()

    def _add_unreached(self) -> None:
        """Give experts without any token Grams of zeros."""
        for name in self._experts:
            self.grams.sent.setdefault(name, 0)
            self.grams.moved.setdefault(name, 0)
            device = dense_module(self._model, name).weight.device
            for sums in (self.grams.forward, self.grams.backward):
                if name not in sums:
                    sums[name] = GramSum.zeros(self._widths[name], device)

    def _pass(
        self,
        kind: str,
        examples: Sequence[Example],
        batch: Batch,
        max_choices: int,
        generator: torch.Generator,
    ) -> None:
        self._mask_BL, self._tokens_T = batch.mask_BL, batch.mask_BL.flatten().nonzero().squeeze(1)
        logits_NV = answer_logits(self._model, batch)
        if not torch.isfinite(logits_NV).all():
            raise ScoringError(
                f"the dense model's logits are not finite in calibration batch {self._batch}; "
                "try model.dtype: float32, or look for broken records"
            )
        loss = loss_of(kind, logits_NV, examples, batch, max_choices, generator)
        loss.backward()  # type: ignore[no-untyped-call]
        self._last_input = self._last_sent = self._mask_BL = None
        self.grams.tokens += batch.tokens
        self.grams.answers += answers_of(kind, batch)

    def _watch_output(
        self, name: str
    ) -> Callable[[LinearModule, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def after_forward(module: LinearModule, args: tuple[torch.Tensor, ...], y_BLO: torch.Tensor) -> None:
            if self._mask_BL is None:
                return
            rows_T = self._real_rows(name, y_BLO)
            if module.bias is None:
                y_TO = _rows_of(y_BLO, rows_T)
            else:  # a large bias would leave little of W x in their rounded sum
                y_TO = F.linear(_rows_of(args[0], rows_T), weight_OD(module).detach())
            self._accumulate(self.grams.forward, name, y_TO, "activation")
            self._watch_gradient(name, y_BLO, rows_T)

        return after_forward

    def _watch_input(
        self, name: str
    ) -> Callable[[LinearModule, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
        """Give the matrix an alias of its input.

        The gradient of the alias is what this matrix alone passes back.
        """

        def before_forward(_: LinearModule, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            x_BLD, *rest = args
            if self._mask_BL is None:
                return args
            rows_T = self._real_rows(name, x_BLD)
            self._add_input(name, x_BLD, rows_T)
            alias_BLD = x_BLD.view_as(x_BLD)
            self._watch_gradient(name, alias_BLD, rows_T)
            return alias_BLD, *rest

        return before_forward

    def _watch_gradient(self, name: str, values_BLK: torch.Tensor, rows_T: torch.Tensor) -> None:
        if not (torch.is_grad_enabled() and values_BLK.requires_grad):
            raise _not_prunable(name, "runs without gradients")
        values_BLK.register_hook(lambda grad: self._add_gradient(name, _rows_of(grad, rows_T)))  # type: ignore[no-untyped-call]

    def _add_input(self, name: str, x_BLD: torch.Tensor, rows_T: torch.Tensor) -> None:
        if self._last_input is not None and self._last_input[1] is x_BLD:
            self.grams.forward_of[name] = self._last_input[0]
            return
        self._last_input = (name, x_BLD)
        self.grams.forward_of[name] = name
        self._accumulate(self.grams.forward, name, _rows_of(x_BLD, rows_T), "activation")

    def _add_gradient(self, name: str, grad_TK: torch.Tensor) -> None:
        if name in self._experts:
            moved = int(grad_TK.any(dim=1).sum())
            self.grams.moved[name] = self.grams.moved.get(name, 0) + moved
        scale = gradient_share(self._model, name) ** -2
        self._accumulate(self.grams.backward, name, grad_TK, "gradient", scale)

    def _real_rows(self, name: str, rows_BLN: torch.Tensor) -> torch.Tensor:
        """Return the rows of real tokens.

        Some models flatten B and L, or put an axis of length one among them.
        """
        assert self._mask_BL is not None
        assert self._tokens_T is not None
        if (expert := self._experts.get(name)) is not None:
            if expert.of != self._mask_BL.numel():
                raise _not_prunable(
                    name, f"ran on {expert.of} tokens, expected the batch's {self._mask_BL.numel()}"
                )
            tokens_P = expert.tokens_P
            assert tokens_P is not None
            if self._last_sent is None or self._last_sent[0] is not tokens_P:
                mask_P = self._mask_BL.flatten().to(rows_BLN.device)[tokens_P]
                self._last_sent = tokens_P, mask_P.nonzero().squeeze(1)
            _, rows_T = self._last_sent
            self.grams.sent[name] = self.grams.sent.get(name, 0) + len(rows_T)
            return rows_T
        got, tokens = _sizes(rows_BLN.shape[:-1]), _sizes(self._mask_BL.shape)
        if got not in (tokens, [self._mask_BL.numel()]):
            raise _not_prunable(name, f"ran on {got} rows, expected the batch's {tokens} tokens")
        return self._tokens_T.to(rows_BLN.device)

    def _accumulate(
        self, sums: dict[str, GramSum], name: str, rows_TK: torch.Tensor, what: str, scale: float = 1.0
    ) -> None:
        if name not in sums:
            sums[name] = GramSum.zeros(rows_TK.shape[1], rows_TK.device)
        if not torch.isfinite(sums[name].add_rows_(rows_TK, scale)):
            raise ScoringError(
                f"{what} of {name} is not finite in calibration batch {self._batch}; "
                "try model.dtype: float32, or look for broken records"
            )


def _generator(seed: int, batch: int, device: torch.device) -> torch.Generator:
    """Return the generator of a batch's draws, which depend on nothing else.

    It is on the device, since there may be many draws.
    """
    state = np.random.SeedSequence((seed, batch)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]))


def _rows_of(rows_BLN: torch.Tensor, rows_T: torch.Tensor) -> torch.Tensor:
    """Select rows of the flattened tensor, T×N."""
    return rows_BLN.detach().flatten(0, -2).index_select(0, rows_T)


def _sizes(shape: torch.Size) -> list[int]:
    return [size for size in shape if size != 1]


def _not_prunable(name: str, why: str) -> InputError:
    advice = "list it in model.exclude to keep it dense"
    return InputError("model.include", f"{name} cannot be calibrated: it {why}; {advice}")


def _require_grad(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
    """Make embeddings require gradients; a forward hook.

    The output is cloned, because some models scale their embeddings in place, which a leaf refuses.
    """
    return output.requires_grad_().clone() if output.is_leaf else output
