"""Which local models a job file could name on this server: folders and gguf files under its roots.

Looks at names, sizes and small JSON files, never at weights. A job's own checks go further: what is listed here may
still be refused, and a dry run tells.
"""

import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ranksieve.search.errors import InputError
from ranksieve.service.pipeline.plans import allowed_roots, resolve_path
from ranksieve.service.server.settings import DATABASE, Settings
from ranksieve.service.spec import ModelSpec
from ranksieve.workers.model.checks import check_local
from ranksieve.workers.model.loading import weight_bytes
from ranksieve.workers.types.plan import ModelSource

logger = logging.getLogger(__name__)

MOST_DEPTH = 6
"""Folders between a root and a model; a home folder has the hub's cache, and in it a model's revisions, so deep."""

MOST_ENTRIES = 100_000
"""Files and folders looked at, all together."""

MOST_IN_FOLDER = 10_000
"""A folder with more of them holds something else than models, and leaves room for others."""

MOST_MODELS = 1000

LONGEST_NAME = 200
"""No architecture's has so many characters."""

PARSED_BYTES = 2 * 2**20
"""Configurations are smaller. Larger JSON files, which are vocabularies, would hold up the whole server."""

Kind = Literal["path", "gguf"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModel:
    """A model that a job file could name.

    `model`: what to put under `model`; a relative path counts from the roots. `location`: where it is, absolute.
    `architecture`: the first that config.json names; None for gguf files and where it names none.
    """

    model: dict[Kind, str]
    location: str
    architecture: str | None
    weight_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Models, sorted by where they are. `complete`: no limit kept anything from being looked at, or listed."""

    models: Sequence[LocalModel]
    complete: bool


def local_models(settings: Settings) -> Listing:
    """The models under the roots; what is in a data directory, of this server or another, is not listed.

    What this server may not read, and links that lead out of the roots, are passed over: no job can use them. Folders
    behind other links are listed where they really are.
    """
    walk = _Walk(settings.roots, settings.data_dir)
    found: list[LocalModel] = []
    for root, kind, path in walk:
        model = _model(root, kind, path, settings)
        if model is not None and len(found) == MOST_MODELS:
            return _listing(found, complete=False)
        if model is not None:
            found.append(model)
    return _listing(found, complete=walk.complete)


def _listing(models: Sequence[LocalModel], *, complete: bool) -> Listing:
    return Listing(models=sorted(models, key=lambda one: one.location), complete=complete)


class _Walk:
    """What looks like a model, with its root: the shallow ones first, those of a folder by their names.

    Links to folders are not followed, so that each folder is met once. `complete` tells in the end whether all were.

    Args:
        roots: Where to look.
        hidden: A folder not to look into.
    """

    def __init__(self, roots: Sequence[Path], hidden: Path) -> None:
        self._roots = [root for root in dict.fromkeys(roots) if not root.is_relative_to(hidden)]
        self._hidden = hidden
        self.complete = True

    def __iter__(self) -> Iterator[tuple[Path, Kind, Path]]:
        queue = deque((root, root, 0) for root in self._roots)
        left = MOST_ENTRIES
        while queue and left > 0:
            root, folder, depth = queue.popleft()
            most = min(left, MOST_IN_FOLDER)
            entries = _entries(folder, most + 1)
            left -= len(entries)
            if len(entries) > most:
                self.complete = False
                continue
            if DATABASE in entries:
                continue
            for kind, path in _candidates(folder, sorted(entries)):
                yield root, kind, path
            below = self._below(folder, entries)
            if depth < MOST_DEPTH:
                queue.extend((root, inner, depth + 1) for inner in below)
            elif below:
                self.complete = False
        self.complete = self.complete and not queue

    def _below(self, folder: Path, entries: Mapping[str, bool]) -> list[Path]:
        """The folders in it that are to be looked into on its account."""
        elsewhere = {self._hidden, *self._roots}
        paths = [folder / name for name in sorted(entries) if entries[name]]
        return [path for path in paths if path not in elsewhere]


def _entries(folder: Path, most: int) -> dict[str, bool]:
    """Names in a folder, so many at most, and whether each is a folder; none of what cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_dir(follow_symlinks=False) for entry in islice(entries, most)}
    except OSError as error:
        logger.debug("no models are looked for: %s", error)
        return {}


def _candidates(folder: Path, names: Sequence[str]) -> Iterator[tuple[Kind, Path]]:
    if "config.json" in names and any(name.endswith(".safetensors") for name in names):
        yield "path", folder
    yield from (("gguf", folder / name) for name in names if name.endswith(".gguf"))


def _model(root: Path, kind: Kind, path: Path, settings: Settings) -> LocalModel | None:
    """A model as a job would name it; None if a job would be refused."""
    try:
        ModelSpec.model_validate({kind: str(path)})  # a name of bytes that are no text fits in no job file
        real = resolve_path(str(path), allowed_roots(settings), f"model.{kind}")
        config = check_local(ModelSource(kind=kind, location=str(real)), PARSED_BYTES)
        size = real.stat().st_size if kind == "gguf" else weight_bytes(real)
    except (ValidationError, InputError, OSError) as error:
        logger.debug("not listed: %s", error)
        return None
    if real.is_relative_to(settings.data_dir):
        return None
    name = str(path.relative_to(root))
    return LocalModel(
        model={kind: name if _resolved(name, settings) == real else str(path)},
        location=str(path),
        architecture=_architecture(config),
        weight_bytes=size,
    )


def _resolved(name: str, settings: Settings) -> Path | None:
    """What a job would find by this name."""
    try:
        return resolve_path(name, allowed_roots(settings), "model")
    except InputError:
        return None


def _architecture(config: Mapping[str, Any]) -> str | None:
    """The first that a configuration names, where that can be the name of a class."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    return first if isinstance(first, str) and first.isidentifier() and len(first) <= LONGEST_NAME else None
