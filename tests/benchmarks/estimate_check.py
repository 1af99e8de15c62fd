"""Estimated against taken seconds, phase by phase, of the last job that succeeded in a data directory.

    .venv/bin/python tests/benchmarks/estimate_check.py --data-dir .ranksieve
    .venv/bin/python tests/benchmarks/estimate_check.py --llama    # from configurations alone, on H100s

The first times the machine that it runs on: run it where the job ran. The estimate is of a machine that does nothing
else. It checks the job's files again and reads nothing else.
"""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from real_model import parser
from transformers import LlamaConfig

from ranksieve.service import wiring
from ranksieve.service.job.job import JobState
from ranksieve.service.pipeline.estimate import estimate_size
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.workers.cost.shapes import size_of
from ranksieve.workers.cost.speed import DATA_SHEETS
from ranksieve.workers.data.splits import USUAL_MOST

# Sizes from the public config.json of meta-llama/Llama-3.1-8B and -70B.
LLAMA = {"vocab_size": 128_256, "num_key_value_heads": 8, "max_position_embeddings": 131_072}
LLAMAS = {
    "Llama-3.1-8B": LLAMA
    | {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "Llama-3.1-70B": LLAMA
    | {"hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
GPUS = {"Llama-3.1-8B": 1, "Llama-3.1-70B": 8}
"""Of one actor."""

LENGTH = 256


def main() -> None:
    arguments = _arguments()
    numbers = _llamas() if arguments.llama else _check(arguments.data_dir, arguments.root)
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=2) + "\n")


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument(
        "--root", type=Path, action="append", default=[], help="folder that the job's files are in"
    )
    options.add_argument("--llama", action="store_true")
    return options.parse_args()


def _check(data_dir: Path, roots: list[Path]) -> dict[str, Any]:
    settings = Settings(data_dir=data_dir, roots=[*roots, data_dir])
    store = Store(settings.store_url)
    store.open()
    jobs = store.jobs(states=[JobState.SUCCEEDED], limit=1)
    store.close()
    if not jobs or jobs[0].result is None:
        raise SystemExit(f"no job has succeeded in {data_dir} yet; run make demo first")
    job = jobs[0]
    estimate = wiring.build(settings).estimate(job.spec)
    print(f"{estimate['machine']['name']}: {estimate['machine']['flops_per_second'] / 1e9:,.0f} GFLOP/s")
    print(f"scorings: {job.result['evaluations']} of at most {estimate['evaluations_at_most']}")
    search = next(phase for phase in estimate["phases"] if phase["phase"] == "search")
    print(f"tokens scored by the search: {job.result['tokens']:,} of at most {search['tokens']:,}")
    print(f"{'phase':>10}{'low, s':>10}{'high, s':>10}{'taken, s':>10}{'range':>8}")
    for phase in estimate["phases"]:
        low, high = phase["seconds_low"], phase["seconds_high"]
        taken = job.result["seconds"].get(phase["phase"], 0.0)  # a phase that was not wanted takes none
        within = "below" if taken < low else "above" if taken > high else "within"
        print(f"{phase['phase']:>10}{low:>10,.1f}{high:>10,.1f}{taken:>10,.1f}{within:>8}")
    return {"estimate": estimate, "taken_seconds": job.result["seconds"]}


def _llamas() -> dict[str, Any]:
    rows: dict[str, Any] = {}
    print(
        "| model | GPUs an actor | passes | each GPU, GB | host, GB | disk, GB | prepare, h "
        "| search at most, h |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, sizes in LLAMAS.items():
        model = size_of(LlamaConfig(**sizes))
        row = rows[name] = estimate_size(model, _spec(GPUS[name]), LENGTH, DATA_SHEETS["H100"])
        hours = {
            p["phase"]: f"{p['seconds_low'] / 3600:.2f} to {p['seconds_high'] / 3600:.2f}"
            for p in row["phases"]
        }
        total = row["total"]
        print(
            f"| {name} | {GPUS[name]} | {row['gram_passes']} "
            f"| {total['accelerator_bytes'] / 1e9:,.0f} | {total['host_bytes'] / 1e9:,.0f} "
            f"| {total['disk_bytes'] / 1e9:,.0f} | {hours['prepare']} | {hours['search']} |"
        )
    return rows


def _spec(gpus_per_actor: int) -> JobSpec:
    """The defaults of a job file, on four actors, with the most records that splits get by default."""
    return JobSpec.model_validate(
        {
            "model": {"hub": "meta-llama/Llama-3.1-8B"},
            "task": {
                "kind": "choice",
                "prompt": "{{ text }}",
                "answer": "{{ label }}",
                "choices": ["a", "b"],
                "data": {"source": {"path": "records.jsonl"}, "sizes": USUAL_MOST},
            },
            "resources": {"actors": 4, "gpus_per_actor": gpus_per_actor},
        }
    )


if __name__ == "__main__":
    main()
