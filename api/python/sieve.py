"""`sieve`: arguments in, a finished job and its model out."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ranksieve.api.cli.embedded import embedded
from ranksieve.api.cli.follow import Outcome, run_job, run_submitted
from ranksieve.api.cli.output.results import result_tables
from ranksieve.api.cli.output.terminal import text_of
from ranksieve.api.cli.spec_file import named_paths, validated, with_absolute_paths
from ranksieve.api.client.client import Client
from ranksieve.api.client.pages import all_candidates
from ranksieve.api.http.schemas.search import CANDIDATE_FIELDS
from ranksieve.api.http.settings import local_settings, settings_from
from ranksieve.api.plots.files import require_matplotlib
from ranksieve.api.plots.found import EXPORTED_MODEL, found_in
from ranksieve.api.python.records import named_source, write_records
from ranksieve.search.errors import (
    CancelledError,
    ConflictError,
    InfrastructureError,
    InputError,
    RanksieveError,
    ScoringError,
)
from ranksieve.service.run.ownership import make_data_dir
from ranksieve.service.spec import EffortName, JobSpec, KindName

SCORED = tuple(name for name in CANDIDATE_FIELDS if name not in ("genome", "ranks"))
"""Fields of a scored candidate; those that are left out have a number for each matrix."""

if TYPE_CHECKING:
    from matplotlib.figure import Figure

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sieved:
    """A succeeded job and its model.

    `folder` holds the model, as transformers saves one. `result` is the result that the API has, and `candidates` are
    the scorings of the search, a dict of plain values each: `kept_share`, `loss_nats`, `drop_points`, `generation`, ….
    `ranks` has the rank of every matrix of the model. A notebook shows the figures.
    """

    job_id: str
    folder: Path
    result: dict[str, Any] = field(repr=False)
    candidates: list[dict[str, Any]] = field(repr=False)
    ranks: dict[str, Any] = field(repr=False)

    @property
    def summary(self) -> str:
        """The tables that `ranksieve run` ends with, as plain text."""
        return text_of(*result_tables(self.result))

    def load(self) -> Any:
        """Load the model, as a `transformers` model on the processor.

        Runs no code of its folder.
        """
        from ranksieve.workers.export.reader import load_folder

        return load_folder(self.folder)

    def to_pandas(self) -> Any:
        """Return the candidates as a `pandas.DataFrame`, a row for each scoring."""
        import pandas

        return pandas.DataFrame(self.candidates, columns=list(SCORED))

    def plot_tradeoff(self) -> "Figure":
        """Draw size against loss.

        It has the candidates, the finalists, the promise, the dense models and the export.

        Raises:
            InfrastructureError: matplotlib is not installed; says how to install it.
        """
        require_matplotlib()
        from ranksieve.api.plots.job import sizes_figure

        return sizes_figure(found_in(self.result, self.candidates))

    def plot_ranks(self) -> "Figure":
        """Draw the rank of every matrix of the model, layer by layer.

        Raises:
            InfrastructureError: matplotlib is not installed; says how to install it.
        """
        require_matplotlib()
        from ranksieve.api.plots.job import ranks_figure

        return ranks_figure((EXPORTED_MODEL, self.ranks))


def sieve(
    model: StrPath | Mapping[str, Any],
    data: object,
    *,
    answer: str,
    prompt: str = "",
    choices: Sequence[str] | Mapping[str, str] | str | None = None,
    kind: KindName | None = None,
    max_drop: float | None = None,
    share: float | None = None,
    effort: EffortName = "normal",
    seed: int = 0,
    data_dir: StrPath | None = None,
    output: StrPath | None = None,
    server: str | None = None,
    progress: bool = True,
    **job: Any,
) -> Sieved:
    """Run one job from start to end, in this process or on a server.

    In this process it does what `ranksieve run` does, and a call that was cut off goes on when it is made again. A
    script calls it below `if __name__ == "__main__":`, since it starts processes. An interrupt cancels the job.

    Args:
        model: As in a job file: a hub id; a folder that starts with `./`, `../`, `/` or `~/`; a `.gguf` file; or a
            mapping of `hub` or `path` and the other fields of `model`.
        data: File ending in .jsonl, .csv or .parquet, the name of a data set on the hub, a list of dicts, a pandas
            DataFrame or a `datasets.Dataset`. Records from memory are written below `data_dir`.
        answer: Jinja template of the right answer, e.g. `"{{ label }}"`.
        prompt: Jinja template of the text that the model reads.
        choices: Labels to choose from, their answer texts, or the name of the field with each record's own.
        kind: `choice`, `generate` or `lm`. By default the first with `choices`, the second with a `prompt`.
        max_drop: Points that the smallest model may lose; the job file's default is used without any objective.
        share: Share of the block parameters that the best model may keep, from 0 to 1.
        effort: `quick`, `normal` or `thorough`.
        seed: Seed of all randomness.
        data_dir: Database, job folders and caches; `.ranksieve` by default, as for the command.
        output: New or empty folder to copy the job's files to, as `ranksieve download` does.
        server: URL of a server to run the job on; the key is `RANKSIEVE_API_KEY`. Paths are the server's. The model
            is downloaded to `output`, or else below `data_dir`.
        progress: Whether to show progress on stderr.
        job: More sections of a job file, e.g. `objective="pareto"`, `resources={"actors": 2}` or
            `task={"data": {"sizes": {"test": 1000}}}`.

    Raises:
        SpecError: Fields of the job are wrong; names each one.
        InputError: The data, the output folder or another argument cannot work; names it.
        ApiError: The server refused the job.
        ConflictError: Another process owns the data directory, or this one has a Ray session of its own.
        CancelledError: Somebody cancelled the job.
        ScoringError: The job failed, because its candidates cannot be scored.
        InfrastructureError: The machine failed, or the server cannot be reached.
    """
    document = {
        "model": {"path": os.fspath(model)} if isinstance(model, os.PathLike) else model,
        "task": {
            "kind": kind or ("choice" if choices is not None else "generate" if prompt else "lm"),
            "prompt": prompt,
            "answer": answer,
            "choices": choices,
        },
        "effort": effort,
        "seed": seed,
        **_objective(max_drop, share, job),
    }
    document = _merged(document, job)
    target = None if output is None else _new_folder(Path(output))
    console = Console(stderr=True) if progress else Console(quiet=True, force_terminal=False)
    folder = None if data_dir is None else Path(data_dir)
    if server is not None:
        return _on_server(server, document, data, folder, target, console)
    return _here(document, data, folder, target, console)


def _here(
    document: dict[str, Any], data: object, data_dir: Path | None, target: Path | None, console: Console
) -> Sieved:
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        raise ConflictError(
            "this process has a Ray session already; end it by ray.shutdown(), or give the URL of a server"
        )
    settings = local_settings(data_dir)
    source = named_source(data)
    if source is None:
        make_data_dir(settings)
        source = {"path": str(write_records(data, settings.data_dir / "records"))}
    spec = with_absolute_paths(_spec(document, source), Path.cwd())
    named = [path.resolve() for path in named_paths(spec)]
    settings = local_settings(data_dir, *(path if path.is_dir() else path.parent for path in named))
    from ranksieve.service import wiring  # torch and Ray: seconds, which wrong arguments need not wait for

    with embedded(wiring.build(settings, in_children=False)) as client:
        return _sieved(client, run_job(client, spec, console), target)


def _on_server(
    url: str,
    document: dict[str, Any],
    data: object,
    data_dir: Path | None,
    target: Path | None,
    console: Console,
) -> Sieved:
    source = named_source(data)
    if source is None:
        raise InputError(
            "data",
            "expected a file that the server may read, or the name of a data set on the hub; got "
            f"{type(data).__name__}: save the records where the server reads them, or leave out server",
        )
    spec = _spec(document, source)
    downloads = settings_from(data_dir=data_dir).data_dir / "downloads"
    with Client(url, os.environ.get("RANKSIEVE_API_KEY")) as client:
        outcome = run_submitted(client, lambda: client.submit(spec.canonical()), console)
        return _sieved(client, outcome, target or downloads / outcome.job["id"])


def _spec(document: dict[str, Any], source: dict[str, Any]) -> JobSpec:
    return validated(_merged({"task": {"data": {"source": source}}}, document))


def _sieved(client: Client, outcome: Outcome, target: Path | None) -> Sieved:
    """Return what a job has made, downloaded to `target` if there is one."""
    if outcome.interrupted:
        raise KeyboardInterrupt
    job = outcome.job
    if not outcome.succeeded:
        raise _failure(job)
    folder = Path(job["result"]["artifact"])
    if target is not None:
        files = client.download(job["id"], target)
        folder = next(file.parent for file in files if file.name == "config.json")
    return Sieved(
        job_id=job["id"],
        folder=folder,
        result=job["result"],
        candidates=all_candidates(client, job["id"], SCORED),
        ranks=client.ranks(job["id"]),
    )


def _failure(job: Mapping[str, Any]) -> RanksieveError:
    """Return the error of a job that has not succeeded."""
    error = job["error"]
    if error is None:
        return CancelledError(f"job {job['id']} was {job['state']}")
    if error["code"] == "input":
        return InputError(error.get("field") or "job", error["message"])
    kind = ScoringError if error["code"] == "scoring" else InfrastructureError
    return kind(f"job {job['id']} {job['state']}: {error['message']}")


def _objective(
    max_drop: float | None, share: float | None, job: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the section `objective` if one of the arguments gives it.

    Raises:
        InputError: Several arguments give one.
    """
    arguments = {"max_drop": max_drop, "share": share, "objective": job.get("objective")}
    given = [name for name, value in arguments.items() if value is not None]
    if len(given) > 1:
        raise InputError("objective", f"expected one of {', '.join(arguments)}; got {' and '.join(given)}")
    if max_drop is not None:
        return {"objective": {"kind": "max_drop", "points": max_drop}}
    return {} if share is None else {"objective": {"kind": "target_params", "share": share}}


def _merged(document: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with another one's fields added, section by section."""
    merged = dict(document)
    for name, value in more.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _new_folder(folder: Path) -> Path:
    """Return an absolute folder for the model.

    Raises:
        InputError: There is something in it already, or it is a file.
    """
    target = folder.expanduser().resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError("output", f"expected a new or an empty folder; got {target}: name another one")
    return target
