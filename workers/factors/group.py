"""Group of matrices: Grams in shards, then decompositions in chunks.

Any number of workers may run the same group at once: a chunk, like a shard, is taken by locking its key in the cache.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import PreTrainedModel

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.cache.folders import FolderCache, content_key
from ranksieve.workers.factors.calibration import Calibrator
from ranksieve.workers.factors.decomposition import Factors, factor
from ranksieve.workers.factors.grams import Grams
from ranksieve.workers.factors.midway import dense_module
from ranksieve.workers.factors.passes import shard_count, shard_of
from ranksieve.workers.factors.prepared import ENERGIES, FACTORS, stored
from ranksieve.workers.factors.shards import ShardedSum
from ranksieve.workers.factors.shrinkage import shrunk
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.model.matrices import weight_OD
from ranksieve.workers.types.plan import Example

CHUNK = 8
"""Matrices factored in one go: few, so that every worker finds some."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Inputs of the factors besides the model.

    `precision` is the dtype of the arithmetic, `dtype` the stored one.
    """

    kind: str
    examples: Sequence[Example]
    seed: int
    batch_tokens: int
    precision: torch.dtype
    dtype: torch.dtype


class MatrixGroup:
    """Matrices whose Grams fit into memory together.

    Args:
        cache: Shared by the workers.
        key: Key of the whole model's factors; once it is in the cache, the group is no longer needed.
        model: The dense model, or a model midway to a smaller one.
        matrices: Matrices of this group.
        recipe: Inputs of the factors.
        workers: Approximate number of workers.
    """

    def __init__(
        self,
        cache: FolderCache,
        key: str,
        model: PreTrainedModel,
        matrices: Sequence[MatrixShape],
        recipe: Recipe,
        workers: int,
    ) -> None:
        self._cache = cache
        self._key = key
        self._model = model
        self._matrices = matrices
        self._recipe = recipe
        self._chunks = [matrices[start : start + CHUNK] for start in range(0, len(matrices), CHUNK)]
        self.parts = [content_key("part", key, [matrix.name for matrix in chunk]) for chunk in self._chunks]
        examples = recipe.examples
        batches = make_batches(examples, max(example.choices for example in examples), recipe.batch_tokens)
        self._batches = len(batches)
        tokens = sum(batch.ids_BL.numel() for batch in batches)
        self._shards = shard_count(tokens, len(batches), model.device.type)
        names = [matrix.name for matrix in matrices]
        self._sum = ShardedSum(cache, content_key("sum", key, names), self._shards, workers)

    @property
    def done(self) -> bool:
        """Whether all chunks, or the whole model's factors, are in the cache.

        Checked in this order, since chunks are removed once the whole is there.
        """
        return all(map(self._cache.has, self.parts)) or self._cache.has(self._key)

    def gather(self) -> Iterator[tuple[int, int]]:
        """Sum the Grams, unless the group is done; yield (batches done, all batches)."""
        if self.done:
            return
        yield from self._sum.gather(self._shard, lambda: not self.done)
        yield self._batches, self._batches

    def factor(self) -> Iterator[tuple[int, int]]:
        """Factor the chunks that no worker has taken; yield (matrices done, all)."""
        if not self.done:
            yield from self._factor_chunks()
        if self.done:
            self._sum.discard()

    def wait(self) -> None:
        """Wait for the worker of the first chunk that is not done."""
        for part in self.parts:
            if not self._cache.has(part):
                with self._cache.lock(part):
                    return

    def discard(self) -> None:
        """Remove intermediate results, once the whole model's factors are there."""
        self._sum.discard()
        for part in self.parts:
            self._cache.remove(part)

    def _factor_chunks(self) -> Iterator[tuple[int, int]]:
        grams = self._sum.load()
        if grams is None:
            return
        for part, chunk in zip(self.parts, self._chunks, strict=True):
            with self._cache.claim(part) as claimed:
                if claimed and not self._cache.has(part) and not self.done:
                    with self._cache.writing(part) as scratch:
                        self._factor(chunk, grams, scratch)
                    yield self._factored(), len(self._matrices)

    def _shard(self, index: int) -> Generator[tuple[int, int], None, Grams]:
        recipe = self._recipe
        before = sum(len(self._batches_of(shard)) for shard in self._sum.done())
        with Calibrator(self._model, self._matrices) as calibrator:
            for done, _ in calibrator.run(
                recipe.kind, recipe.examples, recipe.batch_tokens, recipe.seed, self._batches_of(index)
            ):
                yield before + done, self._batches
        return calibrator.grams

    def _batches_of(self, shard: int) -> range:
        return shard_of(shard, self._shards, self._batches)

    def _factored(self) -> int:
        return sum(
            len(chunk) for part, chunk in zip(self.parts, self._chunks, strict=True) if self._cache.has(part)
        )

    def _factor(self, chunk: Sequence[MatrixShape], grams: Grams, folder: Path) -> None:
        tensors: dict[str, torch.Tensor] = {}
        energies: dict[str, NDArray[np.float64]] = {}
        for matrix in chunk:
            result = self._factors(matrix, grams)
            tensors |= stored(matrix.name, result.left_RO, result.right_RD, self._recipe.dtype)
            energies[matrix.name] = result.energy_K.double().cpu().numpy()
        save_file(tensors, folder / f"{FACTORS}.safetensors")
        np.savez(folder / f"{ENERGIES}.npz", allow_pickle=False, **energies)

    def _factors(self, matrix: MatrixShape, grams: Grams) -> Factors:
        weight = weight_OD(dense_module(self._model, matrix.name))
        # one component at least: a file of factors names every matrix
        rank = max(1, matrix.largest_rank)
        forward, backward = grams.of(matrix.name, weight.device, self._recipe.precision)
        assert backward is not None
        backward = shrunk(weight, backward, grams.answers_of(matrix.name))
        try:
            return factor(weight, rank, forward, backward, self._recipe.precision)
        except ValueError as error:
            raise ScoringError(f"{matrix.name}: {error}") from error
