"""Makes a mixture of experts of the demo's model, for want of a real one, and the job file of the demo's task on it.

    .venv/bin/python tests/benchmarks/upcycle.py FOLDER [--experts 4] [--chosen 2]
    .venv/bin/python tests/benchmarks/projection_table.py --job FOLDER/job.json --root FOLDER

Every feed-forward network becomes so many experts, each a copy of it (sparse upcycling, arXiv 2212.05055, before any
training), behind a router of random weights: by the mean of its chosen experts a token gets what it got, so the mixture
is as good at the task as the model it was made of, to rounding. What differs is what each expert sees.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from real_model import CPU, parser, preparation_plan
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel

from ranksieve.workers.cache.folders import FolderCache
from ranksieve.workers.model.loading import load_prepared, prepare_model
from ranksieve.workers.model.sources import resolve

ROUTER_STD = 0.05
"""Wide enough for tokens to be sent to all experts; how their chosen ones are weighed makes no difference."""

SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "rms_norm_eps", "rope_parameters", "tie_word_embeddings", "bos_token_id",
    "eos_token_id", "pad_token_id",
)  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("folder", type=Path, help="is made")
    options.add_argument("--experts", type=int, default=4)
    options.add_argument("--chosen", type=int, default=2, help="experts of a token")
    arguments = options.parse_args()
    with_job(
        lambda dense: upcycled(dense, arguments.experts, arguments.chosen),
        arguments.data_dir,
        arguments.folder,
    )


def with_job(made: Callable[[PreTrainedModel], PreTrainedModel], data_dir: Path, folder: Path) -> None:
    """Writes what is made of the demo's model into a folder, and the job file of the demo's task on it."""
    plan, spec = preparation_plan(data_dir)
    prepared = prepare_model(resolve(plan.model), CPU, FolderCache(plan.cache_dir))
    model = made(load_prepared(prepared.folder, CPU))
    shutil.copytree(prepared.folder, folder / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(folder / "model")
    source = spec.task.data.source
    assert source is not None
    reviews = shutil.copy(str(source.path), folder)
    job = spec.model_dump(mode="json", exclude_unset=True)
    job["model"] = {"path": "model"}
    job["task"]["data"]["source"] = {"path": Path(reviews).name}
    (folder / "job.json").write_text(json.dumps(job, indent=2))
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters in {folder}")


@torch.no_grad()
def upcycled(dense: torch.nn.Module, experts: int, chosen: int) -> MixtralForCausalLM:
    """A Llama as a mixture whose experts are all the same."""
    known = dense.config
    config = MixtralConfig(
        **{name: getattr(known, name) for name in SHARED},
        head_dim=getattr(known, "head_dim", None),
        num_local_experts=experts,
        num_experts_per_tok=chosen,
        sliding_window=None,
    )
    torch.manual_seed(0)
    mixture = MixtralForCausalLM(config).to(dense.dtype)
    mixture.load_state_dict(dense.state_dict(), strict=False)
    for block, dense_block in zip(mixture.model.layers, dense.model.layers, strict=True):
        mlp = dense_block.mlp
        block.mlp.experts.gate_up_proj[:] = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        block.mlp.experts.down_proj[:] = mlp.down_proj.weight
        block.mlp.gate.weight.normal_(std=ROUTER_STD)
    return mixture.eval()


if __name__ == "__main__":
    main()
