"""The hub: an exported folder is uploaded once it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmkit.system.environment import switched_on
from llmkit.system.errors import PlaceError, RequestError
from llmkit.system.terminal import shell_word


def check(repository: str) -> None:
    """Raise RequestError where nothing can be uploaded: offline, no id, no token. The hub itself isn't asked yet."""
    for variable in ("HF_HUB_OFFLINE", "LLMKIT_OFFLINE"):
        if switched_on(variable):
            raise RequestError(f"--push-to-hub {repository}: the hub is switched off by {variable} (or --offline).")
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if repository.count("/") != 1:
        raise RequestError(f"--push-to-hub {repository}: an id is OWNER/NAME, as in me/{Path(repository).name}.")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise RequestError(f"--push-to-hub {repository}: {' '.join(str(error).split())}") from error
    if get_token() is None:
        raise RequestError(f"--push-to-hub {repository}: there is no token: `hf auth login`, or set HF_TOKEN.")


def push(folder: Path, repository: str, private: bool) -> str:
    """Upload a folder as a model, which is made where there is none; return its address.

    PlaceError where the hub refuses or can't be reached: the folder is whole, and stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    unreachable: type[Exception] = HfHubHTTPError.__mro__[1]  # of the library that the hub's client asks through
    api: Any = HfApi()
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Exported by llmkit")
    except (unreachable, OSError) as error:
        said = " ".join(str(error).split())[:300].rstrip(".")
        raise PlaceError(f"--push-to-hub {repository}: not uploaded: {said}. {folder} is whole; "
                         f"`hf upload {repository} {shell_word(folder)}` tries again.") from error
    return f"{api.endpoint}/{repository}"
