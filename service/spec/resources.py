"""`resources` of a job file: what it may use of the cluster."""

from typing import Annotated

from pydantic import Field, field_validator

from ranksieve.service.spec.strict import Strict

CPU_BATCH_TOKENS = 768
GPU_BATCH_TOKENS = 4096
LEAST_SHARE = 1e-4
"""Of a GPU: Ray counts in ten-thousandths."""

Actors = Annotated[int, Field(ge=1, le=4096)]


class ResourceSpec(Strict):
    """What the job may use of the cluster."""

    actors: Actors = Field(
        2,
        description="At most; jobs that run at once share the cluster, and the result does not depend on it.",
    )
    threads_per_actor: int = Field(1, ge=1, le=1024)
    gpus_per_actor: float = Field(
        0,
        ge=0,
        le=64,
        description="A share of one, or several for a model that one has no room for: its blocks go to them in order.",
    )
    batch_tokens: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Padded tokens per forward pass; by default 768 on a CPU, where small batches "
        "stay in the caches, and 4,096 on a GPU.",
    )
    gram_memory_gib: float = Field(
        8,
        gt=0,
        le=65_536,
        description="Memory for the Grams of calibration, of a GPU or of all actors that work on the CPU; with less "
        "than all need, it takes several passes.",
    )
    evaluation_timeout_s: float = Field(1800, gt=0, le=86_400)

    @field_validator("gpus_per_actor")
    @classmethod
    def _whole_beyond_one(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError(f"got {gpus:g}; expected a share of one GPU, 0..1, or a whole number of them")
        return gpus

    @property
    def tokens_per_batch(self) -> int:
        """`batch_tokens`, or what suits the device."""
        return self.batch_tokens or (GPU_BATCH_TOKENS if self.device == "cuda" else CPU_BATCH_TOKENS)

    @property
    def device(self) -> str:
        """Where the model runs."""
        return "cuda" if self.gpus_per_actor > 0 else "cpu"

    @property
    def threads(self) -> int:
        """Of all actors: a phase that runs alone gets them all."""
        return self.actors * self.threads_per_actor

    @property
    def actors_per_device(self) -> int:
        """Actors that share the memory of a GPU, or of the CPU."""
        return int(1 / self._share_of_a_gpu) if self._share_of_a_gpu else self.actors

    @property
    def devices(self) -> float:
        """So many devices' worth of work the actors do at a time: of several GPUs of one, one works; 1 for the CPU."""
        return self.actors * self._share_of_a_gpu if self._share_of_a_gpu else 1

    @property
    def _share_of_a_gpu(self) -> float:
        return min(1.0, self.gpus_per_actor)

    @property
    def devices_per_actor(self) -> int:
        """GPUs that an actor's model is spread over; 1 for the CPU."""
        return max(1, int(self.gpus_per_actor))

    @property
    def gram_bytes(self) -> int:
        """One actor's share of `gram_memory_gib`; of several GPUs, one may hold all that are gathered at once."""
        return int(self.gram_memory_gib * 2**30) // self.actors_per_device
