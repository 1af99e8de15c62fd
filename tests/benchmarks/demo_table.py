"""Runs the demo for several seeds and efforts, and prints a table of the results.

With `--json FILE` every result is kept in FILE as soon as it is there, and what FILE holds is not run again.
"""

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from real_model import parser

from ranksieve.service.policy import EFFORTS

Key = tuple[str, int]
"""Effort, seed."""

HEADER = (
    "| effort | seed | block parameters kept | dense test accuracy | tuned | sieved "
    "| drop, points (95 %) | test KL, nats | tokens/s | promise held | seconds |"
)


def main() -> None:
    arguments = _arguments()
    results = _stored(arguments.json)
    wanted = list(product(arguments.efforts, arguments.seeds))
    for key in wanted:
        if key in results:
            continue
        results[key] = _run(*key, arguments.data_dir)
        if arguments.json:
            _store(arguments.json, results)
    print(HEADER)
    print("|---" + "|---:" * (HEADER.count("|") - 2) + "|")
    for key in wanted:
        print("| " + " | ".join(_cells(*key, results[key])) + " |")


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 3, 4])
    options.add_argument("--efforts", nargs="+", default=["normal"], choices=list(EFFORTS))
    return options.parse_args()


def _run(effort: str, seed: int, data_dir: Path) -> dict[str, Any]:
    command = [str(Path(sys.executable).with_name("ranksieve")), "demo", "--json"]
    command += ["--data-dir", str(data_dir), "--seed", str(seed), "--effort", effort]
    print(" ".join(["ranksieve", *command[1:]]), file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the demo of effort {effort} and seed {seed} ended with {done.returncode}")
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


def _cells(effort: str, seed: int, result: dict[str, Any]) -> Iterator[str]:
    dense, best = result["dense"], result["best"]
    drop, low, high = best["drop"]["test"].values()
    yield effort
    yield str(seed)
    yield f"{best['kept_block_params']:.1%}"
    yield f"{dense['metric']['test']:.3f}"
    yield f"{result['reference']['metric'].get('test', dense['metric']['test']):.3f}"
    yield f"{best['metric']['test']:.3f}"
    yield f"{drop:+.2f} ({low:+.2f} to {high:+.2f})"
    yield f"{best['kl_nats']['test']:.3f}"
    yield f"{best['tokens_per_second'] / dense['tokens_per_second']:.2f}×"
    yield "yes" if result["promise_held"] else "no"
    yield f"{sum(result['seconds'].values()):,.0f}"


def _stored(file: Path | None) -> dict[Key, dict[str, Any]]:
    if file is None or not file.exists():
        return {}
    rows = json.loads(file.read_text())
    return {(row["effort"], row["seed"]): row["result"] for row in rows}


def _store(file: Path, results: dict[Key, dict[str, Any]]) -> None:
    rows = [
        {
            "effort": effort,
            "seed": seed,
            "result": {**result, "artifact": Path(result["artifact"]).name},
        }
        for (effort, seed), result in results.items()
    ]
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(rows, indent=1) + "\n")
    part.replace(file)


if __name__ == "__main__":
    main()
