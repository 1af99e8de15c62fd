"""Draws what the searches came to: the smallest model that was confirmed, a dot for each seed.

Needs `pip install -e '.[bench]'`. Reads rows of `search_table.py`, of each method and seed that of the largest budget.

    plot_seeds.py --out results/kept.svg
"""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

ROWS = Path(__file__).parent / "results" / "search_ag_news.json"
NAMES = {
    "lagrangian": "ranksieve's seeds",
    "evopress-seeded": "EvoPress from these",
    "cma-es": "CMA-ES from these",
    "random": "random search",
    "uniform": "uniform ranks",
    "paper": "LLM-Sieve's GA",
}


def main() -> None:
    options = ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, required=True)
    out = options.parse_args().out
    plt.rcParams.update({"svg.hashsalt": "ranksieve", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
    rows = json.loads(ROWS.read_text())
    for points, marker, color in ((1.0, "o", "tab:blue"), (5.0, "D", "tab:orange")):
        for place, method in enumerate(NAMES):
            kept = list(_kept(rows, method, points).values())
            height = len(NAMES) - place + (0.14 if points == 1.0 else -0.14)
            axes.plot([min(kept), max(kept)], [height, height], color=color, linewidth=1)
            label = f"within {points:g} point{'s' * (points > 1)}" if place == 0 else None
            axes.plot(kept, [height] * len(kept), marker, color=color, markersize=4, label=label)
    axes.set(title="news topics", xlim=(0, 103), xlabel="parameters kept, %")
    axes.set_yticks(range(len(NAMES), 0, -1), NAMES.values())
    axes.grid(axis="x", linewidth=0.3)
    axes.legend(loc="lower left", fontsize=8)
    figure.savefig(out, metadata={"Date": None})


def _kept(rows: list[dict[str, Any]], method: str, points: float) -> dict[int, float]:
    """Percent kept by seed; 100 where no promise held."""
    wanted = (method, "drop", points)
    found = [row for row in rows if (row["method"], row["objective"], row["amount"]) == wanted]
    ordered = sorted(found, key=lambda row: row["budget"])
    return {row["seed"]: 100 * row["kept"] if row["held"] else 100.0 for row in ordered}


if __name__ == "__main__":
    main()
