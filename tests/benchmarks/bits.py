"""What 8 and 4 bits on disk cost the demo's models: bytes and accuracy.

    demo_table.py --seeds 0 1 2 7 --json demos.json
    bits.py --demos demos.json

Every exported model is scored on the demo's test reviews as it is, and rounded by `ranksieve quantize`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from real_model import parser

from ranksieve.api.cli.demo import demo_spec
from ranksieve.service.pipeline.evaluation import evaluate_export
from ranksieve.service.server.demo_assets import fetch
from ranksieve.service.server.settings import Settings
from ranksieve.workers.export.quantized import quantize
from ranksieve.workers.model.loading import weight_bytes

Row = dict[str, Any]
COLUMNS = "| {effort} | {seed} | {kept:.1%} | {bits} | {mb:.1f} | {metric:.4f} ({low:.4f} to {high:.4f}) |"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--demos", type=Path, required=True, help="results that demo_table.py stored")
    arguments = options.parse_args()
    print("| effort | seed | kept | bits | MB | test accuracy (95 %) |")
    print("|---|---:|---:|---:|---:|---:|")
    rows: list[Row] = []
    for demo in json.loads(arguments.demos.read_text()):
        for row in _measure(demo, arguments.data_dir):
            rows.append(row)
            print(COLUMNS.format_map(row), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def _measure(demo: Row, data_dir: Path) -> Iterator[Row]:
    """Yield a row of a demo's model for each number of bits."""
    settings = Settings(data_dir=data_dir)
    assets = fetch(settings.cache_dir)
    spec = demo_spec(assets.gguf, assets.reviews, seed=demo["seed"], effort=demo["effort"])
    settings = settings.model_copy(update={"roots": (assets.gguf.parent, assets.reviews.parent)})
    exported = data_dir / "jobs" / demo["result"]["job_id"] / "artifacts" / "model"
    kept = demo["result"]["best"]["kept_block_params"]
    with TemporaryDirectory() as scratch:
        for bits in (16, 8, 4):
            folder = exported
            if bits < 16:
                folder = Path(scratch) / str(bits)
                quantize(exported, folder, bits)
            values = evaluate_export(settings, folder, spec, "test")
            low, high = values["interval"]
            yield {
                "effort": demo["effort"],
                "seed": demo["seed"],
                "kept": kept,
                "bits": bits,
                "mb": weight_bytes(folder) / 1e6,
                "metric": values["metric"],
                "low": low,
                "high": high,
            }


if __name__ == "__main__":
    main()
