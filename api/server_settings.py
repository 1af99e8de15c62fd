"""`Settings` from command-line options, with errors that name the option."""

import secrets
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from api.spec_errors import dotted
from api.spec_file import SpecError
from service.settings import Settings


def settings_from(**given: Any) -> Settings:
    """Settings from the environment, overridden by every option that is not `None`.

    Raises:
        SpecError: A value cannot be; names the setting.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise SpecError(
            [{"field": dotted(record["loc"]), "detail": record["msg"]} for record in error.errors()]
        ) from None


def local_settings(spec_file: Path, data_dir: Path | None, roots: list[Path]) -> Settings:
    """Settings of a command that works in this process.

    Local files may lie beside the spec file, or another one, and under the current folder too. The server inside the
    process is for this process alone: on loopback, with a key that nobody else knows.
    """
    ambient = settings_from(data_dir=data_dir)
    return settings_from(
        data_dir=ambient.data_dir,
        roots=list(dict.fromkeys([*ambient.roots, *roots, spec_file.resolve().parent, Path.cwd()])),
        host="127.0.0.1",
        api_key=secrets.token_urlsafe(),
    )
