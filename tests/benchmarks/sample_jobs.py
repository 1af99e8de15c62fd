"""A job file for what reads job files and runs none: no file that it names has to exist."""

from typing import Any

SIZES = {"calibration": 256, "search": 256, "confirm": 512, "test": 1000}


def sample_job(name: str, **labels: str) -> dict[str, Any]:
    """Return a settled job of two actors that tells negative reviews from positive ones."""
    return {
        "name": name,
        "labels": labels,
        "model": {"path": "/models/tiny"},
        "task": {
            "kind": "choice",
            "prompt": "Review: {{ text }}\nSentiment:",
            "answer": "{{ label }}",
            "choices": ["negative", "positive"],
            "data": {"source": {"path": "/data/reviews.jsonl"}, "sizes": dict(SIZES)},
        },
        "resources": {"actors": 2, "gpus_per_actor": 0},
    }
