"""Dependencies of the command line, which tests can replace.

    CliRunner().invoke(cli.app, ["run", "job.yaml"], obj=Parts(build=lambda settings: Application(...)))

The real ones import torch and Ray, so they are imported on their first call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranksieve.api.client.client import Client
from ranksieve.service.spec import JobSpec

if TYPE_CHECKING:  # SQLAlchemy and its migrations take longer to import than `ranksieve jobs` may
    from ranksieve.service.application import Application
    from ranksieve.service.server.settings import Settings


def _build(settings: Settings) -> Application:
    from ranksieve.service import wiring

    return wiring.build(settings)


def _evaluate(settings: Settings, model_dir: Path, spec: JobSpec, split: str) -> dict[str, Any]:
    from ranksieve.service.pipeline.evaluation import evaluate_export

    return evaluate_export(settings, model_dir, spec, split)


def _multiply_out(model_dir: Path, output: Path) -> None:
    from ranksieve.workers.export.dense import multiply_out

    multiply_out(model_dir, output)


def _quantize(model_dir: Path, output: Path, bits: int) -> None:
    from ranksieve.workers.export.quantized import quantize

    quantize(model_dir, output, bits)


def _push(model_dir: Path, repository: str, public: bool) -> str:
    from ranksieve.workers.export.push import push

    return push(model_dir, repository, public)


def _compare(
    settings: Settings, spec: JobSpec, rivals: Sequence[str], report: Callable[[str], None]
) -> dict[str, Any]:
    from ranksieve.service.pipeline.compare import compare_rivals

    return compare_rivals(settings, spec, rivals, report)


def _demo(**options: Any) -> int:
    from ranksieve.api.cli.demo import demo

    return demo(**options)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Factories behind the commands.

    `build` makes the application of `serve` and `run`; `connect` a client from a URL and a key; `evaluate`
    scores a model folder on a split of a spec's data; `multiply_out` writes a dense copy of an exported folder,
    `quantize` one of few bits; `push` uploads a folder and returns its address; `compare` fits and scores what a
    user would pick instead; `demo` runs the demo and returns its exit code.
    """

    build: Callable[[Settings], Application] = _build
    connect: Callable[[str, str | None], Client] = Client
    evaluate: Callable[[Settings, Path, JobSpec, str], dict[str, Any]] = _evaluate
    multiply_out: Callable[[Path, Path], None] = _multiply_out
    quantize: Callable[[Path, Path, int], None] = _quantize
    push: Callable[[Path, str, bool], str] = _push
    compare: Callable[[Settings, JobSpec, Sequence[str], Callable[[str], None]], dict[str, Any]] = _compare
    demo: Callable[..., int] = _demo
