"""Listing of local models under the roots: folders and gguf files.

It reads names, sizes and small JSON files, never weights. The checks of a job go further, so a listed model may still
be refused; a dry run shows whether it is.
"""

import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any, Literal

from pydantic import ValidationError

from ranksieve.search.errors import InputError
from ranksieve.service.pipeline.plans import allowed_roots, local_kind, resolve_path
from ranksieve.service.server.settings import DATABASE, Settings
from ranksieve.service.spec import ModelSpec
from ranksieve.workers.machine.limited import run_limited
from ranksieve.workers.model.checks import check_local
from ranksieve.workers.model.loading import weight_bytes
from ranksieve.workers.types.plan import ModelSource

logger = logging.getLogger(__name__)

MOST_DEPTH = 6
"""Most folders between a root and a model.

A home folder has the hub's cache, whose revisions of models lie this deep.
"""

MOST_ENTRIES = 100_000
"""Most files and folders to look at, in total."""

MOST_IN_FOLDER = 10_000
"""Most entries of a folder; larger ones hardly hold models and are skipped."""

MOST_MODELS = 1000

LONGEST_NAME = 200
"""Longest name of an architecture."""

PARSED_BYTES = 2 * 2**20
"""Largest JSON file to parse.

Configurations are smaller. Larger files, such as vocabularies, would hold up the whole server.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModel:
    """A model that a job file could name.

    `model`: value of `model` in a job file; a relative path counts from the roots. `location`: absolute path.
    `architecture`: the first that config.json names; None for gguf files and if it names none.
    """

    model: dict[Literal["path"], str]
    location: str
    architecture: str | None
    weight_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Models, sorted by location.

    `complete`: no limit kept anything from being looked at or listed.
    """

    models: Sequence[LocalModel]
    complete: bool


def list_models(settings: Settings, cancelled: Event) -> Listing:
    """List the models under the roots in a child with limits; see `local_models`.

    Raises:
        CancelledError: `cancelled` was set.
    """
    return run_limited(local_models, settings, cancelled=cancelled)


def local_models(settings: Settings) -> Listing:
    """List the models under the roots, except in data directories of servers.

    Unreadable files and links that lead out of the roots are skipped, because no job can use them. Folders behind other
    links are listed at their real place.
    """
    walk = _Walk(settings.roots, settings.data_dir)
    found: list[LocalModel] = []
    for root, path in walk:
        model = _model(root, path, settings)
        if model is not None and len(found) == MOST_MODELS:
            return _listing(found, complete=False)
        if model is not None:
            found.append(model)
    return _listing(found, complete=walk.complete)


def _listing(models: Sequence[LocalModel], *, complete: bool) -> Listing:
    return Listing(models=sorted(models, key=lambda one: one.location), complete=complete)


class _Walk:
    """Paths that look like models, with their roots, the shallow ones first.

    Links to folders are not followed, so each folder is met once. In the end `complete` says whether all folders were
    looked at.

    Args:
        roots: Folders to search.
        hidden: A folder to skip.
    """

    def __init__(self, roots: Sequence[Path], hidden: Path) -> None:
        self._roots = [root for root in dict.fromkeys(roots) if not root.is_relative_to(hidden)]
        self._hidden = hidden
        self.complete = True

    def __iter__(self) -> Iterator[tuple[Path, Path]]:
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
            for path in _candidates(folder, sorted(entries)):
                yield root, path
            below = self._below(folder, entries)
            if depth < MOST_DEPTH:
                queue.extend((root, inner, depth + 1) for inner in below)
            elif below:
                self.complete = False
        self.complete = self.complete and not queue

    def _below(self, folder: Path, entries: Mapping[str, bool]) -> list[Path]:
        """Return the subfolders to search, without roots, which are searched anyway."""
        elsewhere = {self._hidden, *self._roots}
        paths = [folder / name for name in sorted(entries) if entries[name]]
        return [path for path in paths if path not in elsewhere]


def _entries(folder: Path, most: int) -> dict[str, bool]:
    """Return at most `most` names in a folder, and whether each is a folder.

    Empty if the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_dir(follow_symlinks=False) for entry in islice(entries, most)}
    except OSError as error:
        logger.debug("no models are looked for: %s", error)
        return {}


def _candidates(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    if "config.json" in names and any(name.endswith(".safetensors") for name in names):
        yield folder
    yield from (folder / name for name in names if name.endswith(".gguf"))


def _model(root: Path, path: Path, settings: Settings) -> LocalModel | None:
    """Return a model as a job would name it; None if a job would be refused."""
    try:
        ModelSpec(path=str(path))  # a name that is not valid text fits in no job file
        real = resolve_path(str(path), allowed_roots(settings), "model.path")
        kind = local_kind(str(path))
        config = check_local(ModelSource(kind=kind, location=str(real)), PARSED_BYTES)
        size = real.stat().st_size if kind == "gguf" else weight_bytes(real)
    except (ValidationError, InputError, OSError) as error:
        logger.debug("not listed: %s", error)
        return None
    if real.is_relative_to(settings.data_dir):
        return None
    name = str(path.relative_to(root))
    return LocalModel(
        model={"path": name if _resolved(name, settings) == real else str(path)},
        location=str(path),
        architecture=_architecture(config),
        weight_bytes=size,
    )


def _resolved(name: str, settings: Settings) -> Path | None:
    """Return the path that a job would find by this name, or None."""
    try:
        return resolve_path(name, allowed_roots(settings), "model")
    except InputError:
        return None


def _architecture(config: Mapping[str, Any]) -> str | None:
    """Return the first architecture of a configuration that can be a class name."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    return first if isinstance(first, str) and first.isidentifier() and len(first) <= LONGEST_NAME else None
