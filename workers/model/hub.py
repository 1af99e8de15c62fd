"""Hub of models: downloads, and plain errors where it does not answer properly.

Its library waits for a silent server without end, and explains refusals in paragraphs about its own arguments. Knows
nothing of a model's content.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Any

import httpx2
import yaml
from huggingface_hub import (
    DatasetCard,
    constants,
    get_cached_repo_tree,
    get_session,
    hf_hub_download,
    set_client_factory,
    snapshot_download,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

from ranksieve.search.errors import InputError

Report = Callable[[int, int], None]

SILENCE_S = 30.0
"""Seconds of silence after which a server counts as not answering."""

_DATA_SET_CARD, _DATA_SET_YAML = "README.md", ".huggingface.yaml"
_TELEMETRY = "HF_HUB_DISABLE_TELEMETRY"


def configure() -> None:
    """Configure this process's use of the hub: bounded waits, no telemetry."""
    if _TELEMETRY not in os.environ:
        os.environ[_TELEMETRY] = "1"  # for child processes; in this one the library has read it already
        constants.HF_HUB_DISABLE_TELEMETRY = True
    usual = get_session()
    before = usual.event_hooks["request"]
    if _end_wait not in before:
        hooks = {**usual.event_hooks, "request": [*before, _end_wait]}
        set_client_factory(lambda: httpx2.Client(event_hooks=hooks, follow_redirects=usual.follow_redirects))


def _end_wait(request: httpx2.Request) -> None:
    """Bound the library's endless waits, which override a client's own timeout."""
    waits = request.extensions["timeout"]
    request.extensions["timeout"] = {
        what: SILENCE_S if limit_s is None else limit_s for what, limit_s in waits.items()
    }


def fetch(
    id: str,
    revision: str | None,
    wanted: Sequence[str],
    unwanted: str,
    report: Report = lambda done, total: None,
) -> Path:
    """Fetch a model's files through the library's cache, and return their folder.

    Args:
        id: Id of the model.
        revision: A branch, tag or commit; None for the main branch.
        wanted: Shell patterns of the files.
        unwanted: Shell pattern of files to leave out.
        report: Called with the fetched and the total bytes of the files begun so far; from any thread.

    Raises:
        InputError: The model cannot be fetched. Its cause is a `ConnectionError` if a retry may succeed.
    """
    with _in_our_words(id, revision):
        return Path(
            snapshot_download(
                id,
                revision=revision,
                allow_patterns=list(wanted),
                ignore_patterns=unwanted,
                tqdm_class=_bars(report),
            )
        )


def _bars(report: Report) -> type[tqdm]:
    """Make a class of invisible progress bars that report bytes."""
    counting = Lock()

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts_bytes = options.get("unit") == "B"
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            with counting:
                self.n += n or 0
                done, total = int(self.n), int(self.total or 0)
            if self._counts_bytes:
                report(done, max(done, total))

    return Bar


def listed(id: str, folder: Path) -> list[str]:
    """Return the paths of all files of a model on the hub, at the fetched commit.

    Args:
        id: Id of the model.
        folder: Result of `fetch`.

    Raises:
        InputError: The hub did not answer.
    """
    with _in_our_words(id, folder.name):
        return [file.path for file in get_cached_repo_tree(id, revision=folder.name)]


def files_elsewhere(id: str, revision: str | None) -> list[str]:
    """Return files of other places that a data set's own description names.

    These are on other servers or on this machine. The library that loads the data set would request the former, and
    reveal whether the latter exist.

    Raises:
        OSError: The hub does not answer.
        ValueError: The description cannot be read.
    """
    card, more = (_described(id, revision, name) for name in (_DATA_SET_CARD, _DATA_SET_YAML))
    try:
        says = [
            None if card is None else DatasetCard.load(card).data.to_dict(),
            None if more is None else yaml.safe_load(more.read_text(encoding="utf-8")),
        ]
    except yaml.YAMLError as error:
        raise ValueError(f"its description is not valid YAML: {error}") from error
    listed = [one.get("configs") for one in says if isinstance(one, dict)]
    configs = [
        config for some in listed if isinstance(some, list) for config in some if isinstance(config, dict)
    ]
    named = (config.get(key) for config in configs for key in ("data_files", "data_dir"))
    return [text for text in _texts(list(named), set()) if _leads_out(text)]


def _described(id: str, revision: str | None, name: str) -> Path | None:
    """Fetch a file that describes a data set, if there is one."""
    try:
        return Path(hf_hub_download(id, name, repo_type="dataset", revision=revision))
    except RemoteEntryNotFoundError:
        return None
    except LocalEntryNotFoundError:
        if not constants.is_offline_mode():
            raise
        return None


def _texts(value: Any, seen: set[int]) -> Iterator[str]:
    """Yield all texts in lists and mappings, each container once.

    Aliases of YAML may repeat them.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list) and id(value) not in seen:
        seen.add(id(value))
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part, seen)


def _leads_out(path: str) -> bool:
    return "::" in path or "://" in path or path.startswith(("/", "~")) or ".." in Path(path).parts


def cause_of(error: Exception) -> Exception:
    """Return the cause of a library error, a `ConnectionError` if the hub is silent.

    A retry may succeed after the latter.
    """
    error = _within(error)
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        silent = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS
    else:
        silent = isinstance(error, httpx2.TransportError)
    return ConnectionError(f"{constants.ENDPOINT} does not answer: {line_of(error)}") if silent else error


@contextmanager
def _in_our_words(id: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except GatedRepoError as error:
        raise InputError(
            "model.hub",
            f"{id!r} is gated. Request access on its page, then give this server the token of an account with access "
            "as HF_TOKEN",
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            "model.hub",
            f"there is no model {id!r}, or it is private; check the id, or give this server a token that may read it, "
            "as HF_TOKEN",
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(
            "model.revision",
            f"{id!r} has no {revision or constants.DEFAULT_REVISION!r}; give a branch, tag or commit of it",
        ) from error
    except (
        httpx2.HTTPError,
        LocalEntryNotFoundError,
        CachedRepoTreeNotFoundError,
        ValueError,
        OSError,
    ) as error:
        raise InputError(
            "model.hub",
            f"{id!r} (revision {revision or 'default'}) could not be fetched from {constants.ENDPOINT}: "
            f"{line_of(_within(error))}; check the id, your network and your access, or give a local folder as "
            "model.path",
        ) from cause_of(error)


def _within(error: Exception) -> Exception:
    """Return the network error behind the library's report of an empty cache."""
    inner = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
    return inner if isinstance(inner, Exception) else error


def line_of(error: Exception) -> str:
    """Return an error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
