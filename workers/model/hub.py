"""The hub of models: what is fetched from it, and what it means where it does not answer as it should.

Its library waits for a silent server without end, and explains refusals in paragraphs about its own arguments. Knows
nothing of what is in a model.
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
"""A server that has said nothing for so long, in seconds, does not answer."""

_DATA_SET_CARD, _DATA_SET_YAML = "README.md", ".huggingface.yaml"
_TELEMETRY = "HF_HUB_DISABLE_TELEMETRY"


def configure() -> None:
    """How this process asks the hub: it waits for no answer without end, and tells nothing of what it runs on."""
    if _TELEMETRY not in os.environ:
        os.environ[_TELEMETRY] = "1"  # for processes to come; in this one the library has looked already
        constants.HF_HUB_DISABLE_TELEMETRY = True
    usual = get_session()
    before = usual.event_hooks["request"]
    if _end_wait not in before:
        hooks = {**usual.event_hooks, "request": [*before, _end_wait]}
        set_client_factory(lambda: httpx2.Client(event_hooks=hooks, follow_redirects=usual.follow_redirects))


def _end_wait(request: httpx2.Request) -> None:
    """Ends the waits that the library wants without end: where it says so, a client's own timeout does not count."""
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
    """The folder with a model's files, through the library's cache.

    Args:
        id: Of the model.
        revision: A branch, tag or commit; None for the main branch.
        wanted: Shell patterns of the files.
        unwanted: Those that match this one are left there all the same.
        report: Told how many bytes are here, of how many of the files that are begun; from any thread.

    Raises:
        InputError: It cannot be had. A `ConnectionError` is behind that where it may be had later.
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
    """Bars that nobody sees: those of bytes say how far they are."""
    counting = Lock()

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._of_bytes = options.get("unit") == "B"
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            with counting:
                self.n += n or 0
                done, total = int(self.n), int(self.total or 0)
            if self._of_bytes:
                report(done, max(done, total))

    return Bar


def listed(id: str, folder: Path) -> list[str]:
    """The paths of all files that the hub has of a model, at the commit that was fetched from.

    Args:
        id: Of the model.
        folder: As `fetch` gave it.

    Raises:
        InputError: The hub was not there to tell.
    """
    with _in_our_words(id, folder.name):
        return [file.path for file in get_cached_repo_tree(id, revision=folder.name)]


def files_elsewhere(id: str, revision: str | None) -> list[str]:
    """What a data set's own description would have read that is none of its files: of other servers, or of this one.

    The library that loads it asks other servers for what is named so, and tells whether a file of this one is there.

    Raises:
        OSError: The hub does not tell.
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
    """A file of a data set that says what is in it, if there is one."""
    try:
        return Path(hf_hub_download(id, name, repo_type="dataset", revision=revision))
    except RemoteEntryNotFoundError:
        return None
    except LocalEntryNotFoundError:
        if not constants.is_offline_mode():
            raise
        return None


def _texts(value: Any, seen: set[int]) -> Iterator[str]:
    """All texts in lists and mappings, of which each is looked through once: aliases of YAML may repeat them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list) and id(value) not in seen:
        seen.add(id(value))
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part, seen)


def _leads_out(path: str) -> bool:
    return "::" in path or "://" in path or path.startswith(("/", "~")) or ".." in Path(path).parts


def cause_of(error: Exception) -> Exception:
    """An error of the hub's library, or where the hub did not answer a `ConnectionError`: it may do so later."""
    error = _within(error)
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        silent = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS
    else:
        silent = isinstance(error, httpx2.TransportError)
    return ConnectionError(f"{constants.ENDPOINT} does not answer: {_line(error)}") if silent else error


@contextmanager
def _in_our_words(id: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except GatedRepoError as error:
        raise InputError(
            "model.hub",
            f"{id!r} is gated: its owner lets in who has asked. Ask for access on its page, and give this server the "
            "token of an account that has it, as HF_TOKEN",
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
            f"{_line(_within(error))}; check the id, your network and your access, or give a local folder as "
            "model.path",
        ) from cause_of(error)


def _within(error: Exception) -> Exception:
    """What kept the library from asking, where it only says that its cache has nothing instead."""
    inner = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
    return inner if isinstance(inner, Exception) else error


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
