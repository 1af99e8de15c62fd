"""`ranksieve cache …`: disk use of prepared models and factors."""

from pathlib import Path

import typer

from ranksieve.api.cli.options import DataDir
from ranksieve.api.cli.output.tables import cache_table
from ranksieve.api.cli.output.terminal import stdout
from ranksieve.search.errors import InputError
from ranksieve.workers.cache.folders import GIB, FolderCache

app = typer.Typer(help="Disk use of prepared models and factors.", no_args_is_help=True)


@app.command("list")
def list_cache(data_dir: DataDir = None) -> None:
    """List the cache entries, least recently used first; these are removed first."""
    cache = _cache(data_dir)
    stdout().print(cache_table(cache.entries(), cache.limit_bytes))


@app.command("clear")
def clear_cache(data_dir: DataDir = None) -> None:
    """Remove every entry that no running job uses; later jobs make them again."""
    cache = _cache(data_dir)
    gone = cache.shrink(0)
    freed_bytes = sum(entry.size_bytes for entry in gone)
    typer.echo(f"removed {len(gone)} entries, {freed_bytes / GIB:.2f} GiB; {len(cache.entries())} are in use")


def _cache(data_dir: Path | None) -> FolderCache:
    """Return the cache of a data directory without creating the directory."""
    from ranksieve.api.http.settings import settings_from

    settings = settings_from(data_dir=data_dir)
    if not settings.cache_dir.is_dir():
        raise InputError(
            "data_dir",
            f"{settings.data_dir} holds no cache; name a directory that jobs ran in with --data-dir",
        )
    return FolderCache(settings.cache_dir, settings.cache_limit_bytes)
