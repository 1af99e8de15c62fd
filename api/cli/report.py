"""`ranksieve report`: one job's page as a file."""

from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import typer

from ranksieve.api.cli.ids import full_id
from ranksieve.api.cli.options import DEFAULT_URL, ApiKey, JobId, Url, parts_of
from ranksieve.api.cli.rivals_file import RivalsFile, read_rivals
from ranksieve.api.client.client import Client
from ranksieve.api.client.connection import ApiError

PAGE = 1000
"""Items in an answer, as in `client.js` of the page."""

FIELDS = ("id", "generation", "kept_share", "kl_nats", "loss_nats", "drop_points", "drop_bound", "failure")
"""Fields of a candidate, as in `candidates.js` of the page."""

app = typer.Typer()


@app.command()
def report(
    ctx: typer.Context,
    job_id: JobId,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="HTML file to write.")],
    rivals: RivalsFile = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Write a job's page as one HTML file that needs no server."""
    from ranksieve.api.page.report import report as document

    compared = None if rivals is None else read_rivals(rivals)
    with parts_of(ctx).connect(url, api_key) as client:
        job = client.job(full_id(client, job_id))
        answers = _History(client, job["id"]).read()
    if compared is not None:
        answers[f"jobs/{job['id']}/rivals"] = {"status": HTTPStatus.OK, "body": compared}
    output.write_text(document(job["id"], job["name"], answers), encoding="utf-8")
    typer.echo(output)


class _History:
    """Answers to everything that the page asks about one job, by path."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client, self._job_id = client, job_id
        self._answers: dict[str, dict[str, Any]] = {}

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the answers by path, each with `status` and `body`."""
        self._ask("")
        self._ask("/artifacts")
        self._ask("/ranks")
        for one in self._client.candidates(self._job_id, pareto=True, limit=PAGE, fields=["id"]):
            self._ask(f"/ranks?candidate={one['id']}")
        self._list("candidates", "".join(f"fields={name}&" for name in FIELDS), "id")
        self._list("generations", "", "generation")
        self._events()
        return self._answers

    def _ask(self, below: str) -> dict[str, Any]:
        """Keep the answer to a request, also a refusal, and return its body."""
        path = f"jobs/{self._job_id}{below}"
        try:
            body = self._client.connection.request("GET", f"/v1/{path}")
            self._answers[path] = {"status": HTTPStatus.OK, "body": body}
        except ApiError as error:
            self._answers[path] = {"status": error.status, "body": {"detail": error.detail}}
        found: dict[str, Any] = self._answers[path]["body"]
        return found

    def _list(self, name: str, query: str, key: str) -> None:
        """Keep the pages of a list, up to an empty one.

        They are those that `listed` of `client.js` asks for.
        """
        found = self._ask(f"/{name}?{query}limit={PAGE}")[name]
        while found:
            found = self._ask(f"/{name}?{query}limit={PAGE}&after={found[-1][key]}")[name]

    def _events(self) -> None:
        """Keep all events in one answer, as the stream has them.

        If they are past retention, the answer is the refusal.
        """
        events = self._ask("/events?after=0").get("events", [])
        page = events
        while page:
            params = {"after": page[-1]["seq"], "limit": PAGE}
            path = f"/v1/jobs/{self._job_id}/events"
            page = self._client.connection.request("GET", path, params=params)["events"]
            events += page
