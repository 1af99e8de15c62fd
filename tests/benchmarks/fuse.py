"""Makes the demo's model anew with matrices that read the same input as one, and the job file of the demo's task on it.

    .venv/bin/python tests/benchmarks/fuse.py FOLDER [--as phi3]
    .venv/bin/python tests/benchmarks/projection_table.py --job FOLDER/job.json --root FOLDER

One matrix has one right factor, so this is what joint factors come to, in all that a job does. `glm` has gate and up as
one, `phi3` the queries, keys and values as well; the models compute what the demo's does, to rounding.
"""

from pathlib import Path

import torch
from real_model import parser
from transformers import GlmConfig, GlmForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedModel
from upcycle import SHARED, with_job


def main() -> None:
    options = parser(__doc__)
    options.add_argument("folder", type=Path, help="is made")
    options.add_argument("--as", dest="kind", choices=["glm", "phi3"], default="glm")
    arguments = options.parse_args()
    with_job({"glm": as_glm, "phi3": as_phi3}[arguments.kind], arguments.data_dir, arguments.folder)


@torch.no_grad()
def as_glm(llama: PreTrainedModel) -> GlmForCausalLM:
    """Gate and up as one; it turns neighbours among a head's outputs by an angle, Llama those half a head apart."""
    known, head_dim = _shared(llama), llama.config.head_dim
    known["rope_parameters"] |= {"partial_rotary_factor": 1.0}
    glm = GlmForCausalLM(GlmConfig(**known, head_dim=head_dim, attention_bias=False)).to(llama.dtype)
    weights = _with_gate_up(llama.state_dict())
    order = torch.arange(head_dim).view(2, -1).T.flatten()
    for name, weight in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weights[name] = weight.view(-1, head_dim, weight.shape[1])[:, order].flatten(0, 1)
    glm.load_state_dict(weights)
    return glm.eval()


@torch.no_grad()
def as_phi3(llama: PreTrainedModel) -> Phi3ForCausalLM:
    """Queries, keys and values as one, and gate and up."""
    phi3 = Phi3ForCausalLM(Phi3Config(**_shared(llama), sliding_window=None)).to(llama.dtype)
    weights = _with_gate_up(llama.state_dict())
    for name in [name for name in weights if name.endswith("q_proj.weight")]:
        parts = [weights.pop(name.replace("q_proj", f"{kind}_proj")) for kind in "qkv"]
        weights[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
    phi3.load_state_dict(weights)
    return phi3.eval()


def _shared(llama: PreTrainedModel) -> dict[str, object]:
    return {name: getattr(llama.config, name) for name in SHARED}


def _with_gate_up(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for name in [name for name in weights if name.endswith("gate_proj.weight")]:
        parts = [weights.pop(name), weights.pop(name.replace("gate_proj", "up_proj"))]
        weights[name.replace("gate_proj", "gate_up_proj")] = torch.cat(parts)
    return weights


if __name__ == "__main__":
    main()
