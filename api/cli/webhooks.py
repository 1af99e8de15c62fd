"""`ranksieve webhooks …`: URLs that a server notifies of jobs."""

from typing import Annotated

import typer

from ranksieve.api.cli.errors import FAILED
from ranksieve.api.cli.options import DEFAULT_URL, ApiKey, Url, parts_of
from ranksieve.api.cli.output.tables import webhooks_table
from ranksieve.api.cli.output.terminal import plain, stdout
from ranksieve.service.job.job import JobState

app = typer.Typer(help="URLs that a server notifies of jobs.", no_args_is_help=True)

WebhookId = Annotated[str, typer.Argument(metavar="ID", help="Id of the webhook.")]


@app.command("create")
def create(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="URL to send to, https://….")],
    state: Annotated[
        list[JobState] | None,
        typer.Option(help="Job state to send; may be repeated.", show_default="those that end a job"),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Create a webhook and print its id and its secret, which is not shown again."""
    with parts_of(ctx).connect(url, api_key) as client:
        made = client.webhooks.create(target, state or None)
    typer.echo(f"{made['id']} {made['secret']}")


@app.command("list")
def list_webhooks(ctx: typer.Context, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """List webhooks, oldest first."""
    with parts_of(ctx).connect(url, api_key) as client:
        stdout().print(webhooks_table(client.webhooks.all()))


@app.command("test")
def send_test(
    ctx: typer.Context, webhook_id: WebhookId, url: Url = DEFAULT_URL, api_key: ApiKey = None
) -> None:
    """Send a test event to a webhook and print the delivery's state."""
    with parts_of(ctx).connect(url, api_key) as client:
        delivery = client.webhooks.test(webhook_id)
    typer.echo(f"{delivery['id']} {delivery['state']}")
    if delivery["error"] is not None:
        typer.echo(plain(f"error: {delivery['error']}").plain, err=True)
    if delivery["state"] != "delivered":
        raise typer.Exit(FAILED)


@app.command("rotate")
def rotate(
    ctx: typer.Context,
    webhook_id: WebhookId,
    grace_hours: Annotated[int, typer.Option(min=0, help="Hours to also sign with the old secret.")] = 0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Replace a webhook's secret and print the new one."""
    with parts_of(ctx).connect(url, api_key) as client:
        typer.echo(client.webhooks.rotate(webhook_id, grace_hours=grace_hours)["secret"])


@app.command("enable")
def enable(ctx: typer.Context, webhook_id: WebhookId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Enable a disabled webhook; pending deliveries are sent."""
    with parts_of(ctx).connect(url, api_key) as client:
        client.webhooks.change(webhook_id, enabled=True)
    typer.echo(f"{webhook_id} enabled")


@app.command("delete")
def delete(ctx: typer.Context, webhook_id: WebhookId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Delete a webhook; pending deliveries are dropped."""
    with parts_of(ctx).connect(url, api_key) as client:
        client.webhooks.delete(webhook_id)
    typer.echo(f"{webhook_id} deleted")
