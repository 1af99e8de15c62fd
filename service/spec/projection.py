"""`projection` of a job file: how matrices are factored."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ranksieve.service.spec.strict import Strict

MethodName = Literal["task", "output", "input", "weight"]
Shares = Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(strict=False)]


class ProjectionSpec(Strict):
    """How each matrix is factored, and which of its ranks are levels."""

    method: MethodName = "task"
    rank_step: int = Field(16, ge=1, le=4096, description="Ranks are multiples of this, below break-even.")
    gram_examples: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Of the calibration split, so many give the second moments; null: all.",
    )
    midway_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="`task` only: the second moments are gathered twice, in the dense model and a third of the way to "
        "one with this share of the parameters; 1 leaves it at the dense model. Null: `objective.share` of "
        "`target_params`, else 0.3.",
    )
    propagated_shares: Shares | None = Field(
        None,
        max_length=8,
        description="`task` only: factors are made anew, block by block, for what their matrices read in models with "
        "these shares of the parameters; kept where a model of such a size then loses less on others of the "
        "calibration records. An empty list leaves them as they are. Null: 0.8 and 1.6 times `objective.share` of "
        "`target_params`, or of what the Lagrangian model of `target_bytes` or `target_latency` keeps; for `max_drop` "
        "of a `choice` task 0.4 and 0.8 times what the smallest model keeps that loses no more before anything is "
        "searched for; an empty list else, with `refine_epochs`, and where layers share keys and values.",
    )
    propagation_rounds: int = Field(
        1,
        ge=1,
        le=8,
        description="How often errors are propagated, where they are: from the second time on in models of the same "
        "sizes that reweighing and descent have led to with the factors of before; then these begin anew. The search "
        "goes on with the factors that have led to the least loss on its records.",
    )
    refine_epochs: int = Field(
        0,
        ge=0,
        le=1000,
        description="Passes over the calibration split that train the factors on the loss of the search, at many sizes "
        "at once; 0 leaves them as the closed form gave them.",
    )
    refine_examples: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Of the calibration split, a pass of training takes so many; null: all.",
    )
    refit: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Finalists' left factors are fitted to the inputs that their matrices see, towards outputs with "
        "this share of the dense model's flow in them, and a bias of the output head to the right ones of fixed "
        "answers; kept where the loss on the search split falls. Null: never.",
    )
    refine_learning_rate: float = Field(2e-4, gt=0, le=1, description="Highest, of AdamW.")

    @property
    def by_block(self) -> tuple[str, ...]:
        """Fields that ask for what goes through a model block by block."""
        asked = {
            "refit": self.refit is not None,
            "propagated_shares": bool(self.propagated_shares),
            "propagation_rounds": self.propagation_rounds > 1,
        }
        return tuple(name for name, wanted in asked.items() if wanted)

    @model_validator(mode="after")
    def _has_energies_of_the_loss(self) -> Self:
        for name in ("midway_share", "propagated_shares"):
            if getattr(self, name) is not None and self.method != "task":
                raise ValueError(f"{name} is for the method task; got it with {self.method}, leave it out")
        return self
