"""Fingerprints of records, weights, factors and matrices of a job.

A job that is resumed, or exported from, must still have those that it began with. Its genomes and scorings do not
apply to others.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ranksieve.search.errors import InputError, NotFoundError, UnresumableError
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.service.job import matrices
from ranksieve.service.job.events import EventType
from ranksieve.service.run.joblog import JobLog
from ranksieve.workers.factors.prepared import Prepared
from ranksieve.workers.types.plan import EncodedTask


def data_of(task: EncodedTask) -> dict[str, str]:
    """Return digests of the records that the model sees, and of each split."""
    return {"task": task.digest, **task.split_digests}


def model_of(prepared: Prepared) -> dict[str, str]:
    """Return the digest and the dtype of the model."""
    return {"digest": prepared.given.digest, "dtype": prepared.given.dtype}


def require_same_data(known: Mapping[str, str], task: EncodedTask, job_id: str) -> None:
    """Check that the records are the same.

    Args:
        known: Result of `data_of` in the job.
        task: Present task.
        job_id: Id of the job.

    Raises:
        InputError: The records differ.
    """
    found = data_of(task)
    if changed := [name for name, digest in known.items() if found.get(name) != digest]:
        raise InputError(
            "task.data",
            f"is not what it was when job {job_id} ran ({', '.join(changed)} differ), and what it found says nothing "
            "of other records; restore them, or submit the job anew",
        )


def require_same_model(known: Mapping[str, Any], prepared: Prepared, job_id: str) -> None:
    """Check that the model is the same.

    Args:
        known: Result of `model_of` in the job.
        prepared: Present model.
        job_id: Id of the job.

    Raises:
        InputError: The weights or the dtype differ.
    """
    found = model_of(prepared)
    if any(known[name] != value for name, value in found.items()):
        raise InputError(
            "model",
            f"has other weights than when job {job_id} ran: expected sha256 {known['digest']} in {known['dtype']}, got "
            f"{found['digest']} in {found['dtype']}; restore it, or submit the job anew",
        )


def require_same_factors(known: Mapping[str, Any], prepared: Prepared, job_id: str) -> None:
    """Check that the factors of a resumed search are the same.

    Args:
        known: The event `model.loaded` of an earlier run.
        prepared: The factors now.
        job_id: The job.

    Raises:
        UnresumableError: They differ, such as after an update of the program.
    """
    if known["factors"] != prepared.factors.name:
        raise UnresumableError(
            f"job {job_id} would score differently than before: this version of the program makes other factors; "
            "submit the job again"
        )


def require_same_matrices(directory: Path, found: Sequence[MatrixShape], job_id: str) -> None:
    """Check that the pruned matrices and their order are the same.

    Genomes and ranks refer to them.

    Args:
        directory: Folder of the job, which may hold the earlier matrices; not those of blocks that were cut.
        found: Present matrices of all blocks. Another version of the program may divide the same model differently.
        job_id: Id of the job.

    Raises:
        InputError: The matrices differ.
    """
    try:
        known = matrices.kept(directory)
    except (
        NotFoundError
    ):  # the model was not loaded yet, or the job ran on a server with another data directory
        return
    last = max(matrix.layer for matrix in known)
    found = [matrix for matrix in found if matrix.layer <= last]
    if known == found:
        return
    then, now = set(known), set(found)
    gone = [matrix.name for matrix in known if matrix not in now]
    new = [matrix.name for matrix in found if matrix not in then]
    changes = [
        f"{len(names)} {what}, like {names[0]}" for names, what in ((gone, "gone"), (new, "new")) if names
    ]
    raise InputError(
        "model",
        f"has other matrices to prune than when job {job_id} ran: expected {len(known)}, got {len(found)} "
        f"({'; '.join(changes) or 'in another order'}). Another version of the program takes the same model apart "
        "otherwise, and what the job found says nothing of these matrices; submit the job anew, not as a fork",
    )


def announce_data(log: JobLog, task: EncodedTask, notes: Sequence[str]) -> None:
    """Record the records of a job; on resuming, check that they are the same."""
    if (before := log.last_event(EventType.DATA_LOADED)) and (known := before.get("digests")):
        require_same_data(known, task, log.job.id)
    log.event(
        EventType.DATA_LOADED,
        splits={name: len(examples) for name, examples in task.splits.items()},
        dropped_duplicates=task.dropped_duplicates,
        digests=data_of(task),
        notes=list(notes),
    )


def announce_model(log: JobLog, prepared: Prepared, device: str) -> None:
    """Record the model of a job; on resuming, check that it is the same.

    Once a generation is saved, the factors must be the same, too.

    Args:
        log: Log of the job.
        prepared: The model and its factors.
        device: Device that they run on.
    """
    if before := log.last_event(EventType.MODEL_LOADED):
        require_same_model(before, prepared, log.job.id)
        if log.search_state() is not None:
            require_same_factors(before, prepared, log.job.id)
    log.event(
        EventType.MODEL_LOADED,
        matrices=len(prepared.matrices),
        block_params=prepared.block_params,
        total_params=prepared.total_params,
        **model_of(prepared),
        device=device,
        factors=prepared.factors.name,
    )
