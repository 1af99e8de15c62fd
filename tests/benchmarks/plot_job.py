"""Draws a finished job: how the search went, and which matrices kept their ranks.

Reads the store of a data directory (a server may be running on it) and the exported model's tensor shapes. Needs
matplotlib, which `pip install -e '.[bench]'` brings.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from safetensors import safe_open

from ranksieve.service.job.job import Job, JobState
from ranksieve.service.server.settings import Settings
from ranksieve.service.store import Store

LINE, OFF, INK = "#1f5fa8", "#c9c9c9", "#333333"


def main() -> None:
    arguments = _arguments()
    store = Store(Settings(data_dir=arguments.data_dir).store_url)
    job = _job(store, arguments.job)
    assert job.result is not None
    generations = store.generations(job.id)
    kinds, kept_KL = _kept(Path(job.result["artifact"]), job.result["ranks"])

    matplotlib.rcParams.update({"svg.hashsalt": "ranksieve", "font.size": 9, "axes.edgecolor": INK})
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    places = figure.subplot_mosaic([["kl", "share"], ["ranks", "ranks"]], height_ratios=[1, 1])
    _draw_curve(places["kl"], generations, "kl_nats", "KL to dense on the search split, nats")
    _draw_curve(places["share"], generations, "kept_share", "share of prunable parameters kept")
    _draw_result(places["share"], job.result["best"]["kept_block_params"])
    _draw_ranks(figure, places["ranks"], kinds, kept_KL)
    figure.suptitle(_title(job))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, metadata={"Date": None} if arguments.out.suffix == ".svg" else None)
    print(f"job {job.id} drawn to {arguments.out}")


def _arguments() -> Namespace:
    options = ArgumentParser(description=__doc__)
    options.add_argument("--data-dir", type=Path, default=Path(".ranksieve"))
    options.add_argument("--job", help="its id; without it, the last that succeeded")
    options.add_argument("--out", type=Path, required=True, help="an .svg, .png or .pdf file")
    return options.parse_args()


def _job(store: Store, job_id: str | None) -> Job:
    if job_id is not None:
        job = store.job(job_id)
        if job.state is not JobState.SUCCEEDED:
            raise SystemExit(f"job {job_id} is {job.state}; only a job that succeeded can be drawn")
        return job
    jobs = store.jobs(states=[JobState.SUCCEEDED], limit=1)
    if not jobs:
        raise SystemExit("no job has succeeded in this data directory")
    return jobs[0]


def _kept(folder: Path, ranks: dict[str, int]) -> tuple[list[str], NDArray[np.float64]]:
    """Share of every matrix's parameters kept, kinds × layers; not a number where a layer has no such matrix."""
    shapes: dict[str, list[int]] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    places = {name: _place(name) for name in ranks}
    kinds = list(dict.fromkeys(kind for _, kind in places.values()))
    kept_KL = np.full((len(kinds), 1 + max(layer for layer, _ in places.values())), np.nan)
    for name, (layer, kind) in places.items():
        kept_KL[kinds.index(kind), layer] = _share(name, ranks[name], shapes)
    return kinds, kept_KL


def _place(name: str) -> tuple[int, str]:
    """Layer and kind of a matrix: `model.layers.3.mlp.up_proj` → 3, `mlp.up_proj`."""
    parts = name.split(".")
    index = next(i for i, part in enumerate(parts) if part.isdigit())
    return int(parts[index]), ".".join(parts[index + 1 :])


def _share(name: str, rank: int, shapes: dict[str, list[int]]) -> float:
    if rank <= 0:
        return 0.0 if rank == 0 else 1.0
    (_, in_features), (out_features, _) = shapes[f"{name}.down.weight"], shapes[f"{name}.up.weight"]
    return rank * (in_features + out_features) / (in_features * out_features)


def _draw_curve(axes: Axes, generations: list[dict[str, Any]], key: str, title: str) -> None:
    numbers, values = [row["generation"] for row in generations], [row[key] for row in generations]
    axes.plot(numbers, values, color=LINE, linewidth=1.5)
    for accepted, face, label in ((True, LINE, "good enough"), (False, "white", "not good enough")):
        chosen = [i for i, row in enumerate(generations) if row["accepted"] is accepted]
        axes.plot(
            [numbers[i] for i in chosen],
            [values[i] for i in chosen],
            "o",
            color=LINE,
            markerfacecolor=face,
            markersize=5,
            label=label,
        )
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlabel("generation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, 1.1 * max(values))
    axes.grid(axis="y", color=OFF, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _draw_result(axes: Axes, kept: float) -> None:
    """The size that the confirm split allowed, which may be larger than the smallest one the search accepted."""
    axes.axhline(kept, color=INK, linewidth=1, linestyle=":", label="exported, after confirmation")
    axes.set_ylim(top=max(axes.get_ylim()[1], 1.1 * kept))
    axes.legend(frameon=False, fontsize=8)


def _draw_ranks(figure: Figure, axes: Axes, kinds: list[str], kept_KL: NDArray[np.float64]) -> None:
    colours = matplotlib.colormaps["Blues"].with_extremes(bad=OFF)
    image = axes.imshow(kept_KL, aspect="auto", cmap=colours, vmin=0, vmax=1, interpolation="none")
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_xlabel("layer")
    axes.set_title(
        "share of each matrix kept in the exported model (1: dense, 0: gone)", loc="left", fontsize=9
    )
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)


def _title(job: Job) -> str:
    assert job.result is not None
    dense, best = job.result["dense"]["metric"]["test"], job.result["best"]["metric"]["test"]
    kept, metric = job.result["best"]["kept_block_params"], job.result["metric_name"]
    return (
        f"{job.name or job.id}: {kept:.1%} of block parameters kept, test {metric} {dense:.3f} → {best:.3f}"
    )


if __name__ == "__main__":
    main()
