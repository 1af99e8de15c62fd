"""Settings of a server, from its environment.

Nothing is read before a `Settings()` is created.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, IPvAnyNetwork, SecretStr, StringConstraints, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import URL, make_url

from ranksieve.service.server.logs import LogFormat

HostName = Annotated[
    str,
    StringConstraints(
        pattern=r"^((\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-f:]+\])$", to_lower=True
    ),
]
"""Name or address as in a URL, without a port.

`*.example.com` stands for all names below one.
"""

DATABASE = "ranksieve.db"
"""File in the data directory that holds the jobs, by default."""


class Settings(BaseSettings):
    """Settings from `RANKSIEVE_*` variables or arguments; paths become absolute."""

    model_config = SettingsConfigDict(env_prefix="RANKSIEVE_", frozen=True, validate_default=True)

    data_dir: Path = Field(default=Path(".ranksieve"), description="Database, job folders and caches.")
    roots: Annotated[list[Path], NoDecode] = Field(
        default=[],
        description="Folders that local models and data may be read from: a JSON list, or folders joined by "
        f"{os.pathsep!r}. What they hold of data_dir is never read.",
    )
    host: str = "127.0.0.1"
    port: int = Field(default=8765, ge=0, le=65_535, description="0: any free port.")
    api_key: SecretStr | None = Field(default=None, min_length=1, description="Asked of every HTTP caller.")
    allowed_hosts: Annotated[list[HostName], NoDecode] = Field(
        default=[], description="More names that the server is called by, with commas between."
    )
    trusted_proxies: Annotated[list[IPvAnyNetwork], NoDecode] = Field(
        default=[],
        description="Addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, with "
        "commas between.",
    )
    requests_per_second: int = Field(
        default=100, ge=0, le=100_000, description="Of one key, or of one address without a key; 0: no limit."
    )
    connections: int = Field(
        default=800,
        ge=1,
        le=100_000,
        description="Most connections at once. One address, or the open requests of one key, may have a quarter of "
        "them; a trusted proxy all, so it has to limit its own clients.",
    )
    queued_jobs: int = Field(default=1000, ge=1, description="Most jobs of one owner that wait to be run.")
    running_jobs: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Most jobs that this server runs at once; they share the cluster.",
    )
    webhooks: int = Field(default=20, ge=0, le=1000, description="Most webhooks of one owner.")
    webhook_hosts: Annotated[list[HostName], NoDecode] = Field(
        default=[],
        description="Names that webhooks may lead to whatever their address is, and on this machine over http.",
    )
    database_url: str | None = Field(
        default=None, repr=False, description="SQLAlchemy URL; without it, a SQLite file in data_dir."
    )
    cache_limit_gib: float = Field(
        default=100, gt=0, description="What the caches may take of the disk; inf for no limit."
    )
    event_retention_days: float = Field(
        default=90, gt=0, le=36_500, description="So long events are kept after their job has ended."
    )
    log_format: LogFormat = Field(default="text", description="`json`: one object a line.")
    tracing: bool = Field(default=False, description="Whether spans are sent to an OpenTelemetry collector.")
    ray_address: str | None = Field(default=None, description="Ray cluster to join; without it, a local one.")

    @field_validator("data_dir", "ray_address", "database_url", mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if value == "":
            raise ValueError("must not be empty; leave it out for the default")
        return value

    @field_validator("api_key", mode="before")
    @classmethod
    def _without_blanks(cls, value: Any) -> Any:
        return value.strip() if isinstance(value, str) else value  # as files end, which secrets are kept in

    @field_validator("roots", mode="before")
    @classmethod
    def _split_roots(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            try:
                return json.loads(value)
            except ValueError as error:
                raise ValueError(
                    f"expected folders joined by {os.pathsep!r}, or a JSON list: {error}"
                ) from None
        return [folder for folder in value.split(os.pathsep) if folder]

    @field_validator("allowed_hosts", "trusted_proxies", "webhook_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        return (
            [host.strip() for host in value.split(",") if host.strip()] if isinstance(value, str) else value
        )

    @field_validator("data_dir")
    @classmethod
    def _folder(cls, value: Path) -> Path:
        folder = value.expanduser().resolve()
        there = next(one for one in (folder, *folder.parents) if os.path.exists(one))
        if not there.is_dir():
            raise ValueError(f"expected a folder, {there} is a file: name another one with --data-dir")
        return folder

    @field_validator("roots")
    @classmethod
    def _absolute_roots(cls, value: list[Path]) -> list[Path]:
        return [root.expanduser().resolve() for root in value]

    @property
    def jobs_dir(self) -> Path:
        """Folder with one folder of files per job."""
        return self.data_dir / "jobs"

    @property
    def cache_dir(self) -> Path:
        """Folder with prepared models and factors."""
        return self.data_dir / "cache"

    @property
    def cache_limit_bytes(self) -> float:
        """`cache_limit_gib` in bytes."""
        return self.cache_limit_gib * 2**30

    @property
    def secrets(self) -> list[str]:
        """Secrets to redact from logs that have no recognizable form."""
        return [self.api_key.get_secret_value()] if self.api_key else []

    @property
    def private_folders(self) -> list[Path]:
        """Folders of the server whose places are told to the admin alone."""
        return [*self.roots, self.data_dir, Path(sys.prefix)]

    def without_secrets(self) -> Self:
        """Return these settings for a process that reads other people's files."""
        return self.model_copy(update={"api_key": None, "database_url": None})

    @property
    def shares_store(self) -> bool:
        """Whether several servers may use the job store at once; not with SQLite."""
        return not self.store_url.startswith("sqlite")

    @property
    def sqlite_file(self) -> Path:
        """File of the job store, if it is SQLite."""
        return Path(make_url(self.store_url).database or "").resolve()

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of the job store."""
        file = URL.create("sqlite", database=str(self.data_dir / DATABASE))
        return self.database_url or file.render_as_string()
