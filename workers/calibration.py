"""One streamed pass over the calibration examples that gathers the Grams of every matrix.

Legend: B rows, L padded length, T real tokens, D input width, O output width, N answer tokens, V vocabulary.

The gradient is the one of the true Fisher information: the target is drawn from the model's own distribution
(over the answers for `choice`, over the vocabulary at every answer position otherwise), not read from the record,
so that the Gram measures how the model's belief reacts (arXiv 1503.05671, section 5).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel

from search.errors import ScoringError
from search.space import MatrixShape
from workers.batches import Batch, make_batches
from workers.likelihood import answer_logits, slot_log_likelihoods
from workers.plan import Example


@dataclass(kw_only=True, slots=True)
class Grams:
    """Second moments over task tokens, float64.

    `input_DD[name]` is E[x xᵀ]; matrices that read the same activation share one tensor, the one of
    `input_of[name]`. `grad_OO[name]` is E[g gᵀ].
    """

    tokens: int = 0
    input_DD: dict[str, torch.Tensor] = field(default_factory=dict)
    input_of: dict[str, str] = field(default_factory=dict)
    grad_OO: dict[str, torch.Tensor] = field(default_factory=dict)

    def of(self, name: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Input and gradient Gram of one matrix, normalised by tokens; None where not gathered."""
        gram_C = self.input_DD.get(self.input_of.get(name, name))
        gram_G = self.grad_OO.get(name)
        count = max(self.tokens, 1)
        return (None if gram_C is None else gram_C / count, None if gram_G is None else gram_G / count)


class Calibrator:
    """Gathers Grams from a model by hooks; the hooks live as long as the `with` block.

    Args:
        model: The dense model, in the dtype it will run in.
        matrices: Matrices to watch.
        gradients: Whether gradient Grams are wanted (a backward pass per batch).
    """

    def __init__(self, model: PreTrainedModel, matrices: Sequence[MatrixShape], *, gradients: bool) -> None:
        self.grams = Grams()
        self._model = model
        self._names = [matrix.name for matrix in matrices]
        self._gradients = gradients
        self._mask_BL: torch.Tensor | None = None
        self._last_input: tuple[str, torch.Tensor] | None = None
        self._batch = 0
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "Calibrator":
        for name in self._names:
            module = self._model.get_submodule(name)
            self._handles.append(module.register_forward_hook(self._hook(name)))
        if self._gradients:
            embedding = self._model.get_input_embeddings()
            self._handles.append(embedding.register_forward_hook(_require_grad))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def run(
        self, kind: str, examples: Sequence[Example], batch_tokens: int, seed: int
    ) -> Iterator[tuple[int, int]]:
        """Streams the examples through the model; yields (batches done, batches in all).

        Raises:
            ScoringError: An activation, gradient or logit is not finite; names the matrix, if any, and the batch.
        """
        max_choices = max(example.choices for example in examples)
        batches = make_batches(examples, max_choices, batch_tokens)
        generator = torch.Generator(device="cpu").manual_seed(seed)
        for index, batch in enumerate(batches):
            self._batch = index
            self._pass(kind, examples, batch.to(self._model.device), max_choices, generator)
            yield index + 1, len(batches)

    def _pass(
        self,
        kind: str,
        examples: Sequence[Example],
        batch: Batch,
        max_choices: int,
        generator: torch.Generator,
    ) -> None:
        self._mask_BL = batch.mask_BL
        with torch.set_grad_enabled(self._gradients):
            logits_NV = answer_logits(self._model, batch)
            if not torch.isfinite(logits_NV).all():
                raise ScoringError(
                    f"the dense model's logits are not finite in calibration batch {self._batch}; "
                    "try model.dtype: float32, or look for broken records"
                )
            if self._gradients:
                if kind == "choice":
                    loss = _sampled_choice_loss(logits_NV, examples, batch, max_choices, generator)
                else:
                    loss = _sampled_token_loss(logits_NV, generator)
                loss.backward()  # type: ignore[no-untyped-call]
        self._last_input = None
        self.grams.tokens += batch.tokens

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def after_forward(_: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            self._add_input(name, args[0])
            if self._gradients:
                output.register_hook(  # type: ignore[no-untyped-call]
                    lambda grad: self._add_gradient(name, grad)
                )

        return after_forward

    def _add_input(self, name: str, x_BLD: torch.Tensor) -> None:
        if self._last_input is not None and self._last_input[1] is x_BLD:
            self.grams.input_of[name] = self._last_input[0]
            return
        self._last_input = (name, x_BLD)
        self.grams.input_of[name] = name
        assert self._mask_BL is not None
        self._accumulate(self.grams.input_DD, name, x_BLD.detach()[self._mask_BL], "activation")

    def _add_gradient(self, name: str, grad_BLO: torch.Tensor) -> None:
        assert self._mask_BL is not None
        self._accumulate(self.grams.grad_OO, name, grad_BLO.detach()[self._mask_BL], "gradient")

    def _accumulate(self, sums: dict[str, torch.Tensor], name: str, rows_TN: torch.Tensor, what: str) -> None:
        rows_TN = rows_TN.float()
        product_NN = rows_TN.T @ rows_TN
        if not torch.isfinite(product_NN).all():
            raise ScoringError(
                f"{what} of {name} is not finite in calibration batch {self._batch}; "
                "try model.dtype: float32, or look for broken records"
            )
        if name in sums:
            sums[name] += product_NN
        else:
            sums[name] = product_NN.double()


def _sampled_choice_loss(
    logits_NV: torch.Tensor,
    examples: Sequence[Example],
    batch: Batch,
    max_choices: int,
    generator: torch.Generator,
) -> torch.Tensor:
    logp_SC = slot_log_likelihoods(logits_NV, batch, len(examples), max_choices)[list(batch.examples)]
    for row, index in enumerate(batch.examples):
        logp_SC[row, examples[index].choices :] = -torch.inf
    log_belief_SC = logp_SC.log_softmax(dim=1)
    drawn_S = torch.multinomial(log_belief_SC.detach().exp().cpu(), 1, generator=generator)[:, 0]
    return -log_belief_SC[torch.arange(len(drawn_S)), drawn_S.to(log_belief_SC.device)].sum()


def _sampled_token_loss(logits_NV: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    logp_NV = logits_NV.log_softmax(dim=1)
    uniform_NV = torch.rand(logp_NV.shape, generator=generator).to(logp_NV.device)
    drawn_N = (logp_NV.detach() - uniform_NV.clamp_min(1e-20).log().neg().log()).argmax(dim=1)
    return -logp_NV.gather(1, drawn_N[:, None]).sum()


def _require_grad(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
    return output.requires_grad_() if output.is_leaf else output
