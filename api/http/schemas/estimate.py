"""Dry run: a job's needs, phase by phase."""

from typing import Literal

from pydantic import BaseModel, Field


class EstimatedModel(BaseModel):
    """Dense model of an estimate."""

    matrices: int = Field(description="Matrices to prune.")
    block_params: int
    total_params: int
    dtype: str


class EstimatedMachine(BaseModel):
    """Device whose speed the times are for."""

    name: str
    device: Literal["cpu", "cuda"]
    measured: bool = Field(description="Whether the speed was timed just now, or taken from a data sheet.")
    flops_per_second: float = Field(description="Speed of a plain matrix product in the model's dtype.")
    memory_bytes: int


class Needs(BaseModel):
    """Needs of a phase or of the whole job."""

    tokens: int = Field(description="Tokens run through the model, padding included.")
    flops: int
    host_bytes: int = Field(description="Peak memory, over all processes.")
    accelerator_bytes: int = Field(description="Peak memory of the fullest GPU; 0 without one.")
    disk_bytes: int = Field(description="Kept files plus the peak of temporary ones.")
    seconds_low: float = Field(description="Half of the expected time on a machine that does nothing else.")
    seconds_high: float = Field(description="Twice the expected time.")


class PhaseNeeds(Needs):
    """Needs of one phase."""

    phase: str


class EstimateBody(BaseModel):
    """Needs of a job at most, phase by phase."""

    model: EstimatedModel
    machine: EstimatedMachine
    gram_passes: int = Field(
        description="Passes over the calibration split; more memory for Grams means fewer passes."
    )
    evaluations_at_most: int = Field(description="Upper bound of the search, which may end sooner.")
    phases: list[PhaseNeeds]
    total: Needs
    notes: list[str] = Field(description="What will not fit, and the assumptions.")
