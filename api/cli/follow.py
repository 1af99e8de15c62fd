"""Functions that follow a job to its end, on another server or in this process."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import typer
from rich.console import Console

from ranksieve.api.cli.errors import FAILED, INTERRUPTED
from ranksieve.api.cli.output.progress import progress_view
from ranksieve.api.cli.output.results import result_tables
from ranksieve.api.cli.output.terminal import echo_json, stdout
from ranksieve.api.client.client import Client
from ranksieve.api.client.connection import ApiError
from ranksieve.service.job.job import JobState
from ranksieve.service.spec import JobSpec

_AT_REST = (JobState.PAUSED, JobState.CRASHED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A job that has ended; `interrupted` if it was this user's Ctrl-C that ended it."""

    job: dict[str, Any]
    interrupted: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether there is a result."""
        return str(self.job["state"]) == JobState.SUCCEEDED

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints: ids, state, the result's entries and any error."""
        values = {"job_id": self.job["id"], "state": self.job["state"], **(self.job["result"] or {})}
        return values if self.job["error"] is None else {**values, "error": self.job["error"]}


def follow(client: Client, job_id: str, console: Console) -> Outcome:
    """Show a job's events until it has ended.

    Shows its outcome alone where the events are past retention."""
    try:
        with progress_view(console) as view:
            for event in client.events(job_id):
                view.update(event)
    except ApiError as error:
        if error.status != HTTPStatus.GONE:
            raise
        console.print("what happened to the job is past retention", highlight=False)
    return Outcome(job=client.job(job_id))


def run_job(client: Client, spec: JobSpec, console: Console) -> Outcome:
    """Submit a job and follow it; Ctrl-C cancels it and waits until it has ended.

    Jobs that an earlier process left unfinished in the data directory go on first; if one of them has this very
    spec, it is the one that is followed, and nothing is submitted. So it is with one that is paused, is to be,
    or has crashed: it is resumed.

    Raises:
        ApiError: The server refused the spec.
    """
    return run_submitted(client, lambda: _submit_or_resume(client, spec.canonical(), console), console)


def run_submitted(client: Client, submit: Callable[[], dict[str, Any]], console: Console) -> Outcome:
    """Submit and follow a job; Ctrl-C cancels it and waits until it has ended."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        # In a thread, so that a Ctrl-C during the checks does not lose the id of the job they lead to.
        submitted = pool.submit(submit)
        try:
            return follow(client, submitted.result()["id"], console)
        except KeyboardInterrupt:
            console.print("cancelling the job; this takes a few seconds", highlight=False)
            return _cancel(client, submitted.result()["id"])


def finish(outcome: Outcome, *, here: bool = True, as_json: bool = False) -> None:
    """Print a job's outcome and exit with its exit code.

    The reason of a failure was among the job's events. With `here` the model is on this machine, else it has to be
    downloaded.
    """
    if as_json:
        echo_json(outcome.as_json())
    elif outcome.succeeded:
        result = outcome.job["result"]
        for table in result_tables(result):
            stdout().print(table)
        fetch = f"ranksieve download {outcome.job['id']} -o DIR"
        typer.echo(f"model: {result['artifact'] if here else fetch}")
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not outcome.succeeded:
        raise typer.Exit(FAILED)


def tell_of_unfinished(client: Client, console: Console) -> None:
    """Says how many jobs of a data directory go on before anything new."""
    _tell_of_waiting(_unfinished(client), console)


def _unfinished(client: Client) -> list[dict[str, Any]]:
    going_on = [state for state in JobState if not state.terminal]
    return [job for job in client.jobs(states=going_on, limit=500) if not job["cancel_requested"]]


def _tell_of_waiting(unfinished: Sequence[Mapping[str, Any]], console: Console) -> None:
    if waiting := [job for job in unfinished if job["state"] not in _AT_REST]:
        console.print(f"{len(waiting)} unfinished jobs in this data directory go first", highlight=False)


def _submit_or_resume(client: Client, document: dict[str, Any], console: Console) -> dict[str, Any]:
    unfinished = _unfinished(client)
    for job in (client.job(one["id"]) for one in unfinished):
        if _is_of(job["spec"], document):
            console.print(f"going on with the unfinished job {job['id']} of this spec", highlight=False)
            at_rest = job["state"] in _AT_REST or job["pause_requested"]
            return client.resume(job["id"]) if at_rest else job
    _tell_of_waiting(unfinished, console)
    return client.submit(document)


def _is_of(spec: dict[str, Any], document: dict[str, Any]) -> bool:
    """Return whether a job came of a document.

    A server fills in the sizes and resources that a document leaves open, and puts the models of a fork's parent behind
    the document's own seeds.
    """
    data, stored = document["task"]["data"], spec["task"]["data"]
    sizes = {**stored["sizes"], **data["sizes"]}
    resources = {
        name: spec["resources"][name] if value is None else value
        for name, value in document["resources"].items()
    }
    filled = {
        **document,
        "task": {**document["task"], "data": {**data, "sizes": sizes}},
        "resources": resources,
    }
    if document.get("parent") is None:
        return spec == filled
    seeds = spec["search"]["seeds"][: len(document["search"]["seeds"])]
    return {**spec, "search": {**spec["search"], "seeds": seeds}} == filled


def _cancel(client: Client, job_id: str) -> Outcome:
    try:
        client.cancel(job_id)
    except ApiError as error:
        if error.status != HTTPStatus.CONFLICT:  # it may have ended by itself in the meantime
            raise
    for _ in client.events(job_id):
        pass
    return Outcome(job=client.job(job_id), interrupted=True)
