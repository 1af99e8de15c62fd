"""`Settings` from options and the environment; errors name the option or variable."""

import os
import secrets
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ranksieve.api.spec_errors import SpecError, suggestion
from ranksieve.search.errors import InputError
from ranksieve.service.server.settings import Settings

_PREFIX = str(Settings.model_config["env_prefix"])
_OF_CLIENTS = ("URL",)
_SECRET = ("api_key", "database_url")


def settings_from(**given: Any) -> Settings:
    """Return settings from the environment, overridden by every option but `None`.

    Raises:
        SpecError: A value is invalid, or a `RANKSIEVE_` variable is unknown; names them.
    """
    options = {name: value for name, value in given.items() if value is not None}
    if unknown := _unknown_variables(os.environ):
        raise SpecError(unknown)
    try:
        return Settings(**options)
    except ValidationError as error:
        raise SpecError([_named(record, options) for record in error.errors()]) from None


def _unknown_variables(environment: Iterable[str]) -> list[dict[str, str]]:
    """Return unknown variables with our prefix, such as misspelt settings."""
    known = [f"{_PREFIX}{name.upper()}" for name in (*Settings.model_fields, *_OF_CLIENTS)]
    return [
        {"field": name, "detail": f"unknown variable; {suggestion(name.upper(), known)}"}
        for name in sorted(environment)
        if name.upper().startswith(_PREFIX) and name.upper() not in known
    ]


def _named(record: Mapping[str, Any], options: Collection[str]) -> dict[str, str]:
    """Rename a pydantic error to its option or variable."""
    name = str(record["loc"][0])
    value = record["input"]
    got = "" if name in _SECRET else f"; got {str(value) if isinstance(value, Path) else value!r}"
    return {
        "field": name if name in options else f"{_PREFIX}{name.upper()}",
        "detail": record["msg"].removeprefix("Value error, ") + got,
    }


def has_begun(settings: Settings) -> bool:
    """Return whether the database exists; a shared one is assumed to."""
    return settings.shares_store or settings.sqlite_file.exists()


def require_begun(settings: Settings) -> None:
    """Check that a server has run on the data directory.

    Raises:
        InputError: No server has run on it.
    """
    if not has_begun(settings):
        raise InputError(
            "data_dir", f"no server has run on {settings.data_dir}; set the server's RANKSIEVE_DATA_DIR"
        )


def local_settings(data_dir: Path | None, *roots: Path) -> Settings:
    """Return the settings of a command that works in this process.

    The user may read the data directory anyway, so it is a root, as is the current folder. The server inside
    the process is for this process only: on loopback, with a secret key.
    """
    ambient = settings_from(data_dir=data_dir)
    return settings_from(
        data_dir=ambient.data_dir,
        roots=list(dict.fromkeys([*ambient.roots, *roots, Path.cwd(), ambient.data_dir])),
        host="127.0.0.1",
        api_key=secrets.token_urlsafe(),
        requests_per_second=0,  # no other callers
    )
