"""Plans of the workers from a validated job file, with resolved paths."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os.path import normpath
from pathlib import Path
from typing import Any, Literal

from ranksieve.search.errors import InputError
from ranksieve.service.policy import (
    midway_share,
    policy_of,
    train_rate,
    trained_shares,
    tuned_depth,
)
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import DataSource, JobSpec
from ranksieve.workers.cache.folders import FolderCache
from ranksieve.workers.cluster.actor import ScorerPlan
from ranksieve.workers.cost.latency import Latency
from ranksieve.workers.export.verification import VerificationPlan
from ranksieve.workers.export.writer import Exported, ExportPlan
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared
from ranksieve.workers.factors.training import Training
from ranksieve.workers.factors.tuning import Tuning
from ranksieve.workers.model.checks import CHAT_TEMPLATES
from ranksieve.workers.preflight import Checked
from ranksieve.workers.types.plan import SPLITS, DataPlan, ModelSource, RecordSource, TaskPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class Roots:
    """Resolved folders that jobs may read from.

    `hidden`: a folder that counts as empty inside a larger root, but not where a root lies inside it.
    """

    folders: Sequence[Path]
    hidden: Path | None = None

    def cover(self, path: Path) -> bool:
        """Return whether a resolved path lies under a root, hidden or not."""
        return any(path.is_relative_to(folder) for folder in self.folders)

    def __contains__(self, path: Path) -> bool:
        """Return whether a job may read a resolved path."""
        open_folders: Iterable[Path] = self.folders
        if self.hidden is not None and path.is_relative_to(self.hidden):
            open_folders = (folder for folder in self.folders if folder.is_relative_to(self.hidden))
        return any(path.is_relative_to(folder) for folder in open_folders)


def allowed_roots(settings: Settings) -> Roots:
    """Return the folders that local models and data may be read from.

    The data directory holds the files of every owner, so it is hidden.
    """
    return Roots(folders=settings.roots, hidden=settings.data_dir)


def resolve_path(path: str, roots: Roots, field: str) -> Path:
    """Return the existing file or folder that a job names.

    A hidden path is answered like one that does not exist.

    Args:
        path: Path in the job file. A relative one is looked for under each root in turn.
        roots: Folders that the path, with links followed, must lie in.
        field: Field of the path in the job file.

    Raises:
        InputError: The path does not exist, cannot be read, lies outside the roots, or is a folder with a link that
            leads outside.
    """
    if "\0" in path:
        raise InputError(field, "must not contain a NUL character")
    candidates = [Path(path)] if Path(path).is_absolute() else [root / path for root in roots.folders]
    shown = ", ".join(map(str, roots.folders))
    try:
        # Not `candidate.exists()`: "job/../.." would reveal whether there is a hidden folder "job".
        inside = [one for one in candidates if roots.cover(one.resolve())]
        file = next((real for one in inside if (real := one.resolve()) in roots and real.exists()), None)
        if file is not None:
            _refuse_links_out(file, roots, field)
            return file
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise InputError(field, f"cannot read {path!r}: {error}") from error
    is_link = any(one not in inside and roots.cover(Path(normpath(one))) for one in candidates)
    if is_link or not inside:  # does not reveal whether it exists
        place = "is a link to a place outside" if is_link else "is outside"
        raise InputError(field, f"{path!r} {place} the folders this server may read ({shown}); see --root")
    raise InputError(field, f"no such file or folder: {path!r}; relative paths are looked for under {shown}")


def _refuse_links_out(folder: Path, roots: Roots, field: str) -> None:
    """Refuse a model folder with links to files that the job could not name itself."""
    below = (folder / CHAT_TEMPLATES).glob("*")  # the only subfolder whose files are read
    for file in (*folder.iterdir(), *below) if folder.is_dir() else ():
        if file.is_symlink() and file.resolve() not in roots:
            raise InputError(
                field,
                f"contains {file.name}, a link that leads out of the folders this server may read; copy the file",
            )


def model_source(spec: JobSpec, roots: Roots) -> ModelSource:
    """Return the source of the model."""
    model = spec.model
    kind: Literal["hub", "path", "gguf"]
    if model.hub is not None:
        kind, location = "hub", model.hub
    else:
        assert model.path is not None
        kind, location = local_kind(model.path), str(resolve_path(model.path, roots, "model.path"))
    return ModelSource(
        kind=kind,
        location=location,
        revision=model.revision,
        adapter=None if model.adapter is None else resolve_path(model.adapter, roots, "model.adapter"),
        dtype=model.dtype,
        include=model.include,
        exclude=model.exclude,
    )


def local_kind(path: str) -> Literal["path", "gguf"]:
    """Return whether a path in a job file names a gguf file, or a folder."""
    return "gguf" if path.endswith(".gguf") else "path"


def task_plan(spec: JobSpec) -> TaskPlan:
    """Return the task of the model."""
    task = spec.task
    choices = {label: label for label in task.choices} if isinstance(task.choices, tuple) else task.choices
    return TaskPlan(
        kind=task.kind,
        prompt=task.prompt,
        answer=task.answer,
        choices=None if isinstance(choices, str) else choices,
        choices_field=choices if isinstance(choices, str) else None,
        delimiter=task.delimiter,
        chat_template=task.chat_template,
        max_new_tokens=task.max_new_tokens,
    )


def data_plan(spec: JobSpec, roots: Roots) -> DataPlan:
    """Return the source of the records and their division."""
    data = spec.task.data
    return DataPlan(
        source=None if data.source is None else _record_source(data.source, "task.data.source", roots),
        files={
            name: _record_source(source, f"task.data.files.{name}", roots)
            for name, source in data.files.items()
        },
        sizes={name: size for name, size in data.sizes.items()},
        splits=SPLITS,
        group=data.group,
        seed=spec.seed,
    )


def _record_source(source: DataSource, field: str, roots: Roots) -> RecordSource:
    if source.hub is not None:
        hub = source.hub
        return RecordSource(
            field=field, hub_id=hub.id, config=hub.config, split=hub.split, revision=hub.revision
        )
    assert source.path is not None
    return RecordSource(field=field, path=resolve_path(source.path, roots, f"{field}.path"))


def gram_examples(spec: JobSpec) -> int:
    """Return how many calibration records give the second moments."""
    return min(spec.sizes["calibration"], policy_of(spec).gram_examples)


def preparation_plan(spec: JobSpec, checked: Checked, settings: Settings, dtype: str) -> PreparationPlan:
    """Plan the calibration and factoring of a checked job in a working dtype."""
    resources, depth = spec.resources, tuned_depth(spec)
    return PreparationPlan(
        model=replace(checked.model, dtype=dtype),  # type: ignore[arg-type]
        task=checked.task,
        gram_examples=gram_examples(spec),
        midway_share=midway_share(spec),
        training=Training(
            epochs=policy_of(spec).train_epochs,
            examples=policy_of(spec).train_examples,
            learning_rate=train_rate(spec),
            shares=trained_shares(spec),
            kl_weight=policy_of(spec).kl_weight,
            rank_step=policy_of(spec).rank_step,
        ),
        tuning=Tuning(
            epochs=policy_of(spec).train_epochs if depth is not None and checked.by_block else 0,
            examples=policy_of(spec).train_examples,
            learning_rate=policy_of(spec).tune_rate,
            whole=spec.task.kind != "choice",
        ),
        seed=spec.seed,
        batch_tokens=resources.batch_tokens,
        threads=resources.threads_per_actor,
        device=resources.device,
        gram_bytes=resources.gram_bytes,
        cache_dir=settings.cache_dir,
        cache_limit_bytes=settings.cache_limit_bytes,
        workers=resources.most_actors,
    )


def scorer_plan(spec: JobSpec, prepared: Prepared) -> ScorerPlan:
    """Return the plan of the actors that score genomes with prepared factors."""
    return ScorerPlan(
        model_folder=prepared.model.folder,
        factors_folder=prepared.factors,
        matrices=prepared.matrices,
        batch_tokens=spec.resources.batch_tokens,
        threads=spec.resources.threads_per_actor,
        device=spec.resources.device,
        bits=spec.bits,
    )


def export_plan(
    spec: JobSpec, prepared: Prepared, ranks: tuple[int, ...], provenance: dict[str, Any], directory: Path
) -> ExportPlan:
    """Return the plan of an export into the folder of its job."""
    return ExportPlan(
        model_folder=prepared.model.folder,
        factors_folder=prepared.factors,
        matrices=prepared.matrices,
        ranks=ranks,
        folder=directory / "artifacts" / "model",
        scratch=directory / "model.tmp",
        provenance=provenance,
        bits=spec.bits,
    )


def verification_plan(
    spec: JobSpec,
    prepared: Prepared,
    exported: Exported,
    split: str,
    examples: int,
    measured: Latency | None,
) -> VerificationPlan:
    """Return the plan of a comparison of an export with the dense model.

    Both are timed on the workload of the job's latency table, if it has one.
    """
    resources = spec.resources
    return VerificationPlan(
        exported=exported.folder,
        dense=prepared.given.folder,
        split=split,
        examples=examples,
        batch_tokens=resources.batch_tokens,
        threads=resources.threads,
        device=resources.device,
        timed=None if measured is None else (measured.workload, measured.threads),
    )


def cache(settings: Settings) -> FolderCache:
    """Return the cache of prepared models and factors."""
    return FolderCache(settings.cache_dir, settings.cache_limit_bytes)
