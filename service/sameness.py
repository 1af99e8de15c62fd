"""Whether a job that goes on, or is exported from, still has the records and the weights it began with, by digests.

What it has found - weights, genomes, scorings - says nothing of others.
"""

from collections.abc import Mapping
from typing import Any

from search.errors import InputError
from workers.plan import EncodedTask
from workers.prepared import Prepared


def data_of(task: EncodedTask) -> dict[str, str]:
    """What tells records apart: digests of all that the model sees of them, and of each split."""
    return {"task": task.digest, **task.split_digests}


def model_of(prepared: Prepared) -> dict[str, str]:
    """What tells models apart."""
    return {"digest": prepared.model.digest, "dtype": prepared.model.dtype}


def require_same_data(known: Mapping[str, str], task: EncodedTask, job_id: str) -> None:
    """Checks the records.

    Args:
        known: What `data_of` said.
        task: As it is now.
        job_id: When it said so.

    Raises:
        InputError: They are others.
    """
    found = data_of(task)
    if changed := [name for name, digest in known.items() if found.get(name) != digest]:
        raise InputError(
            "task.data",
            f"is not what it was when job {job_id} ran ({', '.join(changed)} differ), and what it found says nothing "
            "of other records; restore them, or submit the job anew",
        )


def require_same_model(known: Mapping[str, Any], prepared: Prepared, job_id: str) -> None:
    """Checks the model.

    Args:
        known: What `model_of` said.
        prepared: As it is now.
        job_id: When it said so.

    Raises:
        InputError: It is another one, or of another dtype.
    """
    found = model_of(prepared)
    if any(known[name] != value for name, value in found.items()):
        raise InputError(
            "model",
            f"has other weights than when job {job_id} ran: expected sha256 {known['digest']} in {known['dtype']}, got "
            f"{found['digest']} in {found['dtype']}; restore it, or submit the job anew",
        )
