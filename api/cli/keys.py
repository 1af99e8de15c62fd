"""`ranksieve keys …`: API keys in the database of a data directory."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ranksieve.api.cli.options import DataDir
from ranksieve.api.cli.output.tables import keys_table
from ranksieve.api.cli.output.terminal import stdout
from ranksieve.service.server.keys import LONGEST_GRACE_H, Scope

if TYPE_CHECKING:  # SQLAlchemy takes longer to import than `ranksieve jobs` may
    from ranksieve.service.store.keys import Keys

app = typer.Typer(help="API keys of the servers of this data directory.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(metavar="ID", help="Id of the key.")]


@app.command("create")
def create_key(
    owner: Annotated[str, typer.Argument(help="Owner of the jobs it submits.")],
    scope: Annotated[Scope, typer.Option(help="Each includes the ones before it.")] = Scope.SUBMIT,
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="Lifetime in days.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Create a key and print its secret, which is not stored."""
    lifetime = None if days is None else timedelta(days=days)
    with _keys(data_dir, begin=True) as keys:
        _, secret = keys.create(owner, scope, lifetime)
    typer.echo(secret)


@app.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """List the keys, including expired and revoked ones."""
    with _keys(data_dir) as keys:
        stdout().print(keys_table(keys.list()))


@app.command("rotate")
def rotate_key(
    key_id: KeyId,
    grace_hours: Annotated[
        int, typer.Option(min=0, max=LONGEST_GRACE_H, help="Hours that the old key stays valid.")
    ] = 0,
    data_dir: DataDir = None,
) -> None:
    """Replace a key by a new one and print its secret.

    Owner, scope and lifetime stay the same.
    """
    with _keys(data_dir) as keys:
        _, secret = keys.rotate(key_id, timedelta(hours=grace_hours))
    typer.echo(secret)


@app.command("revoke")
def revoke_key(key_id: KeyId, data_dir: DataDir = None) -> None:
    """Revoke a key at once."""
    with _keys(data_dir) as keys:
        keys.revoke(key_id)
    typer.echo(f"{key_id} revoked")


@contextmanager
def _keys(data_dir: Path | None, *, begin: bool = False) -> Iterator["Keys"]:
    """Open the keys in a data directory's database, next to a running server.

    Raises:
        InputError: There is no database, and none is to be created.
        ConflictError: Another version of the program has migrated it.
    """
    from ranksieve.api.http.settings import has_begun, require_begun, settings_from
    from ranksieve.service.run.ownership import make_data_dir
    from ranksieve.service.store import Store

    settings = settings_from(data_dir=data_dir)
    if not begin:
        require_begun(settings)
    elif not has_begun(settings):
        typer.echo(f"creating a new database: {settings.sqlite_file}", err=True)
    make_data_dir(settings)
    store = Store(settings.store_url)
    try:
        yield store.keys
    finally:
        store.close()
