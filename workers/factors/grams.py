"""Second moments of rows over many batches: float32 products in float64 sums.

A Gram is symmetric: only its lower triangle is computed and kept, by panels of columns that lie one after another,

    panel i    rows [b·i, K) x columns [b·i, b·(i+1))      b = GRAM_BLOCK

Rows of a bfloat16 model are bfloat16 numbers. Units that multiply those (AMX, tensor cores) do so exactly and add up in
float32, so such rows lose nothing there; others are multiplied in float32.

Legend: K width of a Gram, T rows, P numbers in its panels.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

BYTES_PER_ENTRY = 8
"""Bytes per entry of a sum, float64."""

GRAM_BLOCK = 192

_TENSORS, _FACTS = "grams.safetensors", "grams.json"


def gram_numbers(width: int) -> int:
    """Return the numbers kept of a Gram of this width."""
    return sum((width - start) * min(GRAM_BLOCK, width - start) for start in range(0, width, GRAM_BLOCK))


@contextmanager
def multiplied_as(dtype: torch.dtype) -> Iterator[None]:
    """Let float32 products round their factors to this dtype inside the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if dtype == torch.bfloat16 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True, slots=True)
class GramSum:
    """One Gram, as the panels of its lower triangle."""

    width: int
    panels_P: torch.Tensor

    @classmethod
    def zeros(cls, width: int, device: torch.device) -> "GramSum":
        """Return an empty sum."""
        return cls(width, torch.zeros(gram_numbers(width), dtype=torch.float64, device=device))

    def add_rows_(self, rows_TK: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """Add scale·rowsᵀ·rows, and return the sum of the rows' squares.

        A NaN or infinity of any row shows in that sum.
        """
        squares = torch.zeros((), device=rows_TK.device)
        with multiplied_as(rows_TK.dtype):
            rows_TK = rows_TK.float()
            for start, stop, panel in self._panels():
                product = rows_TK[:, start:].T @ rows_TK[:, start:stop]
                panel.add_(product, alpha=scale)
                squares += product.diagonal().sum()
        return squares

    def whole_KK(self) -> torch.Tensor:
        """Return the whole matrix, symmetric to the last bit."""
        whole_KK = self.panels_P.new_empty(self.width, self.width)
        for start, stop, panel in self._panels():
            square, below = panel[: stop - start], panel[stop - start :]
            whole_KK[start:stop, start:stop] = square.tril() + square.tril(-1).T
            whole_KK[stop:, start:stop], whole_KK[start:stop, stop:] = below, below.T
        return whole_KK

    def _panels(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield each panel: its first column, the column behind its last, and a view."""
        offset = 0
        for start in range(0, self.width, GRAM_BLOCK):
            stop = min(start + GRAM_BLOCK, self.width)
            numbers = (self.width - start) * (stop - start)
            yield start, stop, self.panels_P[offset : offset + numbers].view(-1, stop - start)
            offset += numbers


@dataclass(kw_only=True, slots=True)
class Grams:
    """Second moments over task tokens, summed.

    `forward[name]` is the Gram of the forward values, `backward[name]` of the gradients. `answers` counts the
    independent answers behind the gradients, see `factors.fisher.answers_of`. For an expert's matrix, `sent[name]`
    counts the tokens that it ran on, `moved[name]` those with a gradient there. Matrices seen from their input that
    read the same activation share one sum, that of `forward_of[name]`.
    """

    tokens: int = 0
    answers: int = 0
    forward: dict[str, GramSum] = field(default_factory=dict)
    forward_of: dict[str, str] = field(default_factory=dict)
    backward: dict[str, GramSum] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)

    def answers_of(self, name: str) -> int:
        """Return about how many answers inform a matrix.

        All of them; for an expert at most as many as tokens had a gradient there.
        """
        return min(self.answers, self.moved.get(name, self.answers))

    def of(
        self, name: str, device: torch.device | None = None, dtype: torch.dtype = torch.float64
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return a matrix's forward and backward Gram, K×K, normalised by tokens.

        A Gram that was not gathered is None. The product of both is the mean cost over all tokens. If a share p of
        the tokens is sent to an expert, that is p·E[x xᵀ] and E[g gᵀ], means over the expert's tokens: so the
        backward Gram is normalised by these only.

        Args:
            name: Name of the matrix.
            device: Device of the result; None for the device of the sums.
            dtype: Dtype of the result.
        """
        forward, backward = self.forward.get(self.forward_of.get(name, name)), self.backward.get(name)
        sent = self.sent.get(name, self.tokens)
        return self._mean(forward, self.tokens, device, dtype), self._mean(backward, sent, device, dtype)

    def add_(self, other: "Grams") -> None:
        """Add the sums over other tokens; commutative to the last bit."""
        self.tokens += other.tokens
        self.answers += other.answers
        self.forward_of |= other.forward_of
        self.sent, self.moved = _summed(self.sent, other.sent), _summed(self.moved, other.moved)
        for sums, more in ((self.forward, other.forward), (self.backward, other.backward)):
            for name, gram in more.items():
                if name in sums:
                    sums[name].panels_P.add_(gram.panels_P.to(sums[name].panels_P.device))
                else:
                    sums[name] = gram

    def save(self, folder: Path) -> None:
        """Write the sums as files of a folder."""
        sides = {"forward": self.forward, "backward": self.backward}
        save_file(
            {
                f"{side}:{name}": gram.panels_P.cpu()
                for side, sums in sides.items()
                for name, gram in sums.items()
            },
            folder / _TENSORS,
        )
        widths = {side: {name: gram.width for name, gram in sums.items()} for side, sums in sides.items()}
        facts = {
            "tokens": self.tokens,
            "answers": self.answers,
            "forward_of": self.forward_of,
            "sent": self.sent,
            "moved": self.moved,
            "widths": widths,
        }
        (folder / _FACTS).write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path) -> "Grams":
        """Map the sums into memory; changes to them do not reach the files."""
        facts = json.loads((folder / _FACTS).read_text())
        counts = {name: facts[name] for name in ("tokens", "answers", "forward_of", "sent", "moved")}
        grams = cls(**counts)
        with safetensors.safe_open(folder / _TENSORS, framework="pt") as file:
            for side, sums in (("forward", grams.forward), ("backward", grams.backward)):
                for name, width in facts["widths"][side].items():
                    sums[name] = GramSum(width, file.get_tensor(f"{side}:{name}"))
        return grams

    def _mean(
        self, gram: GramSum | None, tokens: int, device: torch.device | None, dtype: torch.dtype
    ) -> torch.Tensor | None:
        if gram is None:
            return None
        mean_P = gram.panels_P.to(device or gram.panels_P.device) / max(tokens, 1)
        return GramSum(gram.width, mean_P.to(dtype)).whole_KK()


def _summed(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return {name: counts.get(name, 0) + more.get(name, 0) for name in {**counts, **more}}
