"""`ranksieve demo`: a real model, a real task, the real service, in minutes.

SmolLM2-135M-Instruct judges movie reviews; the job asks for the smallest model within two points of the tuned one.
"""

from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ranksieve.api.cli.embedded import embedded
from ranksieve.api.cli.errors import FAILED, INTERRUPTED, only_json
from ranksieve.api.cli.follow import run_job
from ranksieve.api.cli.output.results import result_table
from ranksieve.api.cli.output.terminal import echo_json, plain
from ranksieve.api.cli.spec_file import validated
from ranksieve.api.http.settings import local_settings
from ranksieve.service import wiring
from ranksieve.service.pipeline.evaluation import sample_choices
from ranksieve.service.server.demo_assets import fetch
from ranksieve.service.spec import JobSpec

SAMPLES = 5


def demo_spec(gguf: Path, reviews: Path, *, seed: int, effort: str) -> JobSpec:
    """Return the demo's job, as a job file would describe it.

    Raises:
        SpecError: The effort or the seed is invalid.
    """
    return validated(
        {
            "name": f"movie reviews, {effort}, seed {seed}",
            "model": {"path": str(gguf)},
            "task": {
                "kind": "choice",
                "prompt": "Review: {{ text }}\nSentiment:",
                "answer": "{{ label }}",
                "choices": ["negative", "positive"],
                "data": {
                    "source": {"path": str(reviews)},
                    "sizes": {"calibration": 2048, "search": 384, "confirm": 3200, "test": 2000},
                },
            },
            "objective": {"kind": "max_drop", "points": 2.0, "confidence": 0.95},
            "effort": effort,
            "seed": seed,
        }
    )


def demo(*, data_dir: Path | None, seed: int, effort: str, as_json: bool) -> int:
    """Run the demo and return the exit code."""
    console = Console(stderr=True)
    with only_json(as_json):
        settings = local_settings(data_dir)
        make_spec = partial(demo_spec, seed=seed, effort=effort)
        make_spec(
            Path("model.gguf"), Path("reviews.jsonl")
        )  # refuse wrong options before anything is fetched
        console.print("fetching the model and the reviews (about 95 MB, once)")
        assets = fetch(settings.cache_dir)
        spec = make_spec(assets.gguf, assets.reviews)
        with embedded(wiring.build(settings)) as client:
            outcome = run_job(client, spec, console)
        answers = []
        if outcome.succeeded:
            folder = Path(outcome.job["result"]["artifact"])
            answers = sample_choices(settings, folder, spec, SAMPLES)
    if as_json:
        echo_json({**outcome.as_json(), "samples": answers})
    elif outcome.succeeded:
        _show(outcome.job["result"], answers)
    return INTERRUPTED if outcome.interrupted else 0 if outcome.succeeded else FAILED


def _show(result: dict[str, Any], answers: list[dict[str, str]]) -> None:
    console = Console()
    console.print(result_table(result))
    table = Table("review (test split)", "label", "sieved model", title="the exported model, loaded back")
    for answer in answers:
        review = answer["prompt"].splitlines()[0].removeprefix("Review: ")
        table.add_row(plain(review), answer["label"], plain(answer["answer"]))
    console.print(table)
    folder = result["artifact"]
    console.print(f"The model is in {folder}. Load it with", highlight=False, soft_wrap=True)
    console.print(
        f'    AutoModelForCausalLM.from_pretrained("{folder}", trust_remote_code=True)',
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
