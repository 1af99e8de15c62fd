"""The dry run: what a job will need, phase by phase."""

from typing import Literal

from pydantic import BaseModel, Field


class EstimatedModel(BaseModel):
    """The dense model."""

    matrices: int = Field(description="Matrices to prune.")
    block_params: int
    total_params: int
    dtype: str


class EstimatedMachine(BaseModel):
    """The device whose speed the times are for."""

    name: str
    device: Literal["cpu", "cuda"]
    measured: bool = Field(description="Whether it was timed just now, or taken from a data sheet.")
    flops_per_second: float = Field(description="Of a plain matrix product in the model's dtype.")
    memory_bytes: int


class Needs(BaseModel):
    """What a phase, or the whole job, needs."""

    tokens: int = Field(description="Tokens run through the model, padding included.")
    flops: int
    host_bytes: int = Field(description="Peak memory, over all processes.")
    accelerator_bytes: int = Field(description="Peak memory of the fullest GPU; 0 without one.")
    disk_bytes: int = Field(description="Written and kept, and the most that is kept for a while.")
    seconds_low: float
    seconds_high: float


class PhaseNeeds(Needs):
    """What one phase needs."""

    phase: str


class EstimateBody(BaseModel):
    """What a job will need at most, phase by phase."""

    model: EstimatedModel
    machine: EstimatedMachine
    gram_passes: int = Field(
        description="Passes over the calibration split; more memory for Grams, fewer passes."
    )
    evaluations_at_most: int = Field(description="Bound of the search, which may well end sooner.")
    phases: list[PhaseNeeds]
    total: Needs
    notes: list[str] = Field(description="What will not fit, and what was assumed.")
