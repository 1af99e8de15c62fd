"""`model` of a job file: what is pruned."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ranksieve.service.spec.strict import ADVANCED, Revision, Strict, Texts

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


class ModelSpec(Strict):
    """The dense model to prune: either `hub` or `path`."""

    hub: str | None = Field(
        None, description="Hugging Face hub id, e.g. `HuggingFaceTB/SmolLM2-135M-Instruct`."
    )
    revision: Revision | None = Field(
        None, description="Commit, tag or branch of the hub repository.", json_schema_extra=ADVANCED
    )
    path: str | None = Field(
        None,
        description="Local folder in `save_pretrained` layout, safetensors only; or a file that ends in `.gguf`, which "
        "is de-quantized.",
    )
    adapter: str | None = Field(
        None,
        description="Local folder of a LoRA adapter, as peft saves it; it is merged into the model first.",
        json_schema_extra=ADVANCED,
    )
    dtype: DtypeName = Field(
        "auto",
        description="Working dtype; `auto` is bfloat16 where the device multiplies it natively, else float32.",
        json_schema_extra=ADVANCED,
    )
    include: Texts = Field(
        ("*",),
        min_length=1,
        max_length=1000,
        description="Shell patterns of the names of matrices to prune.",
        json_schema_extra=ADVANCED,
    )
    exclude: Texts = Field(
        (),
        max_length=1000,
        description="Shell patterns of the names of matrices to leave dense.",
        json_schema_extra=ADVANCED,
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.hub is None) == (self.path is None):
            raise ValueError(f"give either hub or path; got {'none' if self.hub is None else 'both'}")
        if self.revision is not None and self.hub is None:
            raise ValueError("revision belongs to hub; remove it or name a hub id")
        return self


def _written_out(value: object) -> object:
    """Turn a text into a mapping.

    Its form tells a file or folder from a hub id.
    """
    if not isinstance(value, str):
        return value
    is_local = value.startswith(("./", "../", "/", "~/")) or value.endswith(".gguf")
    return {"path" if is_local else "hub": value}


Model = Annotated[
    ModelSpec,
    BeforeValidator(_written_out, json_schema_input_type=ModelSpec | str),
    Field(
        description="As a text: a hub id; a folder, if it starts with `./`, `../`, `/` or `~/`; a file, if it ends in "
        "`.gguf`."
    ),
]
