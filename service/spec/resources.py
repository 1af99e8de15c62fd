"""`resources` of a job file: what the job may use of the cluster."""

from collections.abc import Collection, Mapping
from typing import Annotated, Self

from pydantic import Field, field_validator

from ranksieve.service.spec.strict import ADVANCED, Strict
from ranksieve.workers.cluster.packing import amounts, node_amounts, places

BATCH_TOKENS = {"cpu": 768, "cuda": 4096}
"""Padded tokens of a forward pass.

On a processor, small batches stay in its caches.
"""

GRAM_BYTES = 8 * 2**30
"""Memory for Grams on one device; models that need more take several passes."""

LEAST_SHARE = 1e-4
"""Least share of a GPU, because Ray counts in ten-thousandths."""

MOST_ACTORS = 4096

Actors = Annotated[int, Field(ge=1, le=MOST_ACTORS)]


class ResourceSpec(Strict):
    """The part of the cluster that a job may use.

    By default it is all that the cluster has when the job is submitted.
    """

    actors: Actors | None = Field(
        None,
        description="Most scoring actors at a time. Jobs that run at once share the cluster. The result does not "
        "depend on it. Default: as many as the nodes have room for.",
        json_schema_extra=ADVANCED,
    )
    threads_per_actor: int = Field(
        1, ge=1, le=1024, description="Processor threads of one actor.", json_schema_extra=ADVANCED
    )
    gpus_per_actor: float | None = Field(
        None,
        ge=0,
        le=64,
        description="Part of a GPU, or the number of GPUs that one model is spread over. Default: 1 where the cluster "
        "has GPUs, else 0.",
        json_schema_extra=ADVANCED,
    )

    @field_validator("gpus_per_actor")
    @classmethod
    def _possible_share(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and not gpus.is_integer():
            raise ValueError(f"got {gpus:g}; expected a share of one GPU, 0..1, or a whole number of them")
        if gpus is not None and 0 < gpus < LEAST_SHARE:
            raise ValueError(f"must be 0 or at least {LEAST_SHARE:g}; got {gpus:g}")
        return gpus

    def settled(self, nodes: Collection[Mapping[str, float]]) -> Self:
        """Fill in what the job file leaves open.

        Args:
            nodes: Resources of each node of the cluster, `CPU` and `GPU`.
        """
        gpus = max((node.get("GPU", 0) for node in nodes), default=0)
        gpus_per_actor = self.gpus_per_actor if self.gpus_per_actor is not None else min(1, int(gpus))
        size = amounts(CPU=self.threads_per_actor, GPU=gpus_per_actor)
        actors = self.actors or max(1, places(size, node_amounts(dict(enumerate(nodes))), MOST_ACTORS))
        return self.model_copy(update={"actors": actors, "gpus_per_actor": gpus_per_actor})

    @property
    def most_actors(self) -> int:
        """`actors`, or 1 if left open."""
        return self.actors or 1

    @property
    def gpus(self) -> float:
        """`gpus_per_actor`, or 0 if left open."""
        return self.gpus_per_actor or 0

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of one forward pass."""
        return BATCH_TOKENS[self.device]

    @property
    def device(self) -> str:
        """Where the model runs: `cuda` or `cpu`."""
        return "cuda" if self.gpus > 0 else "cpu"

    @property
    def threads(self) -> int:
        """Threads of all actors together, for a phase that runs alone."""
        return self.most_actors * self.threads_per_actor

    @property
    def actors_per_device(self) -> int:
        """Actors that share the memory of one GPU, or of the processor."""
        return int(1 / self._share_of_a_gpu) if self._share_of_a_gpu else self.most_actors

    @property
    def devices(self) -> float:
        """Devices that work at a time.

        Of several GPUs of one actor, one works at a time. The processor counts as one device.
        """
        return self.most_actors * self._share_of_a_gpu if self._share_of_a_gpu else 1

    @property
    def _share_of_a_gpu(self) -> float:
        return min(1.0, self.gpus)

    @property
    def devices_per_actor(self) -> int:
        """GPUs that one actor's model is spread over; 1 for the processor."""
        return max(1, int(self.gpus))

    @property
    def gram_bytes(self) -> int:
        """Memory of one actor for Grams."""
        return GRAM_BYTES // self.actors_per_device
