"""One streamed pass over the calibration examples that gathers the Grams of every matrix.

Legend: B rows, L padded length, T real tokens, D input width, O output width, K = min(O, D), N answer tokens,
V vocabulary, S examples of a batch, C choices.

A matrix y = W x is seen from its narrow side, where both Grams are K×K and nothing of its wide side is ever formed:

    O ≤ D    at its output:  E[(Wx)(Wx)ᵀ] and E[g gᵀ]       g = ∂loss/∂y
    O > D    at its input:   E[x xᵀ] and E[(Wᵀg)(Wᵀg)ᵀ]     Wᵀg: what the matrix passes back

Which loss the gradient is of is the business of `workers.fisher`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel

from search.errors import InputError, ScoringError
from search.space import MatrixShape
from workers.batches import Batch, make_batches
from workers.fisher import Fisher, loss_of
from workers.likelihood import answer_logits
from workers.matrices import LinearModule, weight_OD
from workers.plan import Example

BYTES_PER_ENTRY = 8
"""Of a Gram: float64."""

GRAM_BLOCK = 192


@dataclass(kw_only=True, slots=True)
class Grams:
    """Second moments over task tokens, summed, float64.

    `forward_KK[name]` is the one of what passes the matrix forwards, `backward_KK[name]` of what passes it backwards.
    Matrices seen from their input that read the same activation share one tensor, the one of `forward_of[name]`.
    """

    tokens: int = 0
    forward_KK: dict[str, torch.Tensor] = field(default_factory=dict)
    forward_of: dict[str, str] = field(default_factory=dict)
    backward_KK: dict[str, torch.Tensor] = field(default_factory=dict)

    def of(self, name: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Forward and backward Gram of one matrix, normalised by tokens; None where not gathered."""
        forward_KK = self.forward_KK.get(self.forward_of.get(name, name))
        backward_KK = self.backward_KK.get(name)
        count = max(self.tokens, 1)
        return (
            None if forward_KK is None else forward_KK / count,
            None if backward_KK is None else backward_KK / count,
        )


def gram_width(matrix: MatrixShape, *, from_input: bool = False) -> int:
    """K of a matrix: its narrow side, or its input."""
    return matrix.in_features if from_input else min(matrix.in_features, matrix.out_features)


def passes(
    matrices: Sequence[MatrixShape], gram_bytes: int, *, from_input: bool = False
) -> list[tuple[MatrixShape, ...]]:
    """Cuts the matrices into groups whose Grams fit into memory together; each is gathered in a pass of its own.

    The Grams of all matrices of a 70 B model would take more memory than the model; another pass over the examples
    is the price.

    Args:
        matrices: In model order; neighbours share a group.
        gram_bytes: Memory for Grams; a matrix that needs more gets a group of its own.
        from_input: As for `Calibrator`.
    """
    groups: list[list[MatrixShape]] = []
    free = 0
    for matrix in matrices:
        size = 2 * gram_width(matrix, from_input=from_input) ** 2 * BYTES_PER_ENTRY
        if not groups or size > free:
            groups.append([])
            free = gram_bytes
        groups[-1].append(matrix)
        free -= size
    return [tuple(group) for group in groups]


class Calibrator:
    """Gathers Grams from a model by hooks; the hooks live as long as the `with` block.

    Args:
        model: The dense model, in the dtype it will run in.
        matrices: Matrices to watch.
        gradients: Whether backward Grams are wanted (a backward pass per batch).
        from_input: See every matrix from its input, also where that is the wide side; without gradients.
        fisher: Which loss the gradients are of, see `workers.fisher`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        matrices: Sequence[MatrixShape],
        *,
        gradients: bool,
        from_input: bool = False,
        fisher: Fisher = "true",
    ) -> None:
        assert not (gradients and from_input)
        self.grams = Grams()
        self._model = model
        self._at_output = {
            matrix.name: matrix.out_features <= matrix.in_features and not from_input for matrix in matrices
        }
        self._gradients = gradients
        self._fisher = fisher
        self._mask_BL: torch.Tensor | None = None
        self._last_input: tuple[str, torch.Tensor] | None = None
        self._batch = 0
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "Calibrator":
        for name, at_output in self._at_output.items():
            module = self._model.get_submodule(name)
            self._handles.append(module.register_forward_hook(self._hook(name, at_output=at_output)))
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
            InputError: A matrix does not run once on every token.
        """
        max_choices = max(example.choices for example in examples)
        batches = make_batches(examples, max_choices, batch_tokens)
        generator = torch.Generator(device="cpu").manual_seed(seed)
        for index, batch in enumerate(batches):
            self._batch = index
            self._pass(kind, examples, batch.to(self._model.device), max_choices, generator)
            for name in self._at_output:
                if name not in self.grams.forward_KK and name not in self.grams.forward_of:
                    raise _not_prunable(name, "was not called: the model reads its weight by itself")
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
                loss = loss_of(kind, self._fisher, logits_NV, examples, batch, max_choices, generator)
                loss.backward()  # type: ignore[no-untyped-call]
        self._last_input = None
        self.grams.tokens += batch.tokens

    def _hook(
        self, name: str, *, at_output: bool
    ) -> Callable[[LinearModule, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def after_forward(module: LinearModule, args: tuple[torch.Tensor, ...], y_BLO: torch.Tensor) -> None:
            if at_output:
                self._add_output(name, y_BLO.detach(), module.bias)
            else:
                self._add_input(name, args[0])
            if self._gradients:
                weight = None if at_output else weight_OD(module).detach()
                y_BLO.register_hook(  # type: ignore[no-untyped-call]
                    lambda grad: self._add_gradient(name, grad, weight)
                )

        return after_forward

    def _add_input(self, name: str, x_BLD: torch.Tensor) -> None:
        if self._last_input is not None and self._last_input[1] is x_BLD:
            self.grams.forward_of[name] = self._last_input[0]
            return
        self._last_input = (name, x_BLD)
        self.grams.forward_of[name] = name
        self._accumulate(self.grams.forward_KK, name, self._real(name, x_BLD.detach()), "activation")

    def _add_output(self, name: str, y_BLO: torch.Tensor, bias_O: torch.Tensor | None) -> None:
        y_TO = self._real(name, y_BLO).float()
        if bias_O is not None:
            y_TO -= bias_O.detach().float()
        self._accumulate(self.grams.forward_KK, name, y_TO, "activation")

    def _add_gradient(self, name: str, grad_BLO: torch.Tensor, weight_OD: torch.Tensor | None) -> None:
        grad_TO = self._real(name, grad_BLO.detach())
        passed_TK = grad_TO if weight_OD is None else grad_TO @ weight_OD
        self._accumulate(self.grams.backward_KK, name, passed_TK, "gradient")

    def _real(self, name: str, rows_BLN: torch.Tensor) -> torch.Tensor:
        """The rows of real tokens, T×N; some models flatten B and L, or put an axis of length one among them."""
        assert self._mask_BL is not None
        got, tokens = _sizes(rows_BLN.shape[:-1]), _sizes(self._mask_BL.shape)
        if got not in (tokens, [self._mask_BL.numel()]):
            raise _not_prunable(name, f"ran on {got} rows where the batch has {tokens} tokens")
        return rows_BLN.flatten(0, -2)[self._mask_BL.flatten()]

    def _accumulate(self, sums: dict[str, torch.Tensor], name: str, rows_TN: torch.Tensor, what: str) -> None:
        product_NN = _gram(rows_TN.float())
        if not torch.isfinite(
            product_NN.diagonal().sum()
        ):  # sums of squares: any odd entry of a row shows there
            raise ScoringError(
                f"{what} of {name} is not finite in calibration batch {self._batch}; "
                "try model.dtype: float32, or look for broken records"
            )
        if name in sums:
            sums[name] += product_NN
        else:
            sums[name] = product_NN.double()


def _gram(rows_TN: torch.Tensor) -> torch.Tensor:
    """xᵀx by blocks of columns, the lower triangle mirrored: two thirds of the products of a plain one."""
    width = rows_TN.shape[1]
    gram_NN = rows_TN.new_empty(width, width)
    for start in range(0, width, GRAM_BLOCK):
        stop = min(start + GRAM_BLOCK, width)
        gram_NN[start:stop, start:] = rows_TN[:, start:stop].T @ rows_TN[:, start:]
        gram_NN[stop:, start:stop] = gram_NN[start:stop, stop:].T
    return gram_NN


def _sizes(shape: torch.Size) -> list[int]:
    return [size for size in shape if size != 1]


def _not_prunable(name: str, why: str) -> InputError:
    advice = "list it in model.exclude to keep it dense"
    return InputError("model.include", f"{name} cannot be calibrated: it {why}; {advice}")


def _require_grad(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
    """Cloned, because some models scale their embeddings in place, which a leaf refuses."""
    return output.requires_grad_().clone() if output.is_leaf else output
