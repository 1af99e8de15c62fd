"""Upload of an exported folder to the hub of models."""

from http import HTTPStatus
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from ranksieve.search.errors import InfrastructureError, InputError
from ranksieve.workers.model import hub

_REQUIRED = ("config.json", "README.md", "ranksieve.json")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_HIDDEN = ".*"


def push(folder: Path, id: str, public: bool = False) -> str:
    """Upload an exported model to a repository on the hub, and return its address.

    A missing repository is created. Weight files of an earlier model are deleted from it, because a loader may prefer
    them to the new ones; the repository's history keeps them.

    Args:
        folder: Exported folder, or a dense or rounded copy of one. Hidden files are left out.
        id: `owner/name` of the repository.
        public: Whether everyone may see the repository.

    Raises:
        InputError: The folder is no export, there is no token, an existing repository is public where `public` is
            false or private where it is true, or the hub refuses.
        InfrastructureError: The hub does not answer.
    """
    _require_export(folder)
    _require_id(id)
    if get_token() is None:
        raise InputError(
            "token",
            f"uploading to {constants.ENDPOINT} needs a token that may write; give it as HF_TOKEN, or log in with "
            "`hf auth login`",
        )
    hub.configure()
    api = HfApi()
    try:
        address = api.create_repo(id, private=not public, exist_ok=True)
        _require_visibility(id, api.repo_info(id).private is True, public)
        api.upload_folder(
            repo_id=id,
            folder_path=folder,
            commit_message="Upload a model pruned by ranksieve",
            ignore_patterns=_HIDDEN,
            delete_patterns=list(_WEIGHTS),
        )
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise _in_our_words(error, id) from error
    return str(address)


def _require_export(folder: Path) -> None:
    missing = [name for name in _REQUIRED if not (folder / name).is_file()]
    if not any(folder.glob(_WEIGHTS[0])):
        missing.append(_WEIGHTS[0])
    if missing:
        raise InputError(
            "model_dir", f"{folder} has no {', '.join(missing)}; give a folder that ranksieve has exported"
        )


def _require_id(id: str) -> None:
    try:
        validate_repo_id(id)
        well_formed = "/" in id
    except HFValidationError:
        well_formed = False
    if not well_formed:
        raise InputError(
            "repository", f"expected owner/name of letters, digits, `-`, `_` and `.`, got {id!r}"
        )


def _require_visibility(id: str, private: bool, public: bool) -> None:
    if private and public:
        raise InputError(
            "public", f"{id} exists and is private; make it public on its page, or leave --public out"
        )
    if not private and not public:
        raise InputError("public", f"{id} exists and is public; add --public if everyone may see this model")


def _in_our_words(error: Exception, id: str) -> InputError | InfrastructureError:
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the library wraps what happens to a large file
    cause = hub.cause_of(error)
    if isinstance(cause, ConnectionError):
        return InfrastructureError(f"{cause}; nothing that was uploaded is lost, so try again")
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    denied = status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    if denied or isinstance(error, RepositoryNotFoundError):
        return InputError(
            "token",
            f"the token may not write to {id} on {constants.ENDPOINT}; give one that may, as HF_TOKEN",
        )
    return InputError("repository", f"{id} on {constants.ENDPOINT} refused the model: {hub.line_of(error)}")
