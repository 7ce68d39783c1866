"""Models of ModelScope, by its HTTP API: `modelscope:Qwen/Qwen3-0.6B`, fetched once and kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import urlopen

from llmkit.system import cache
from llmkit.system.environment import switched_on
from llmkit.system.errors import RequestError

log = logging.getLogger("llmkit")

PREFIX = "modelscope:"
HOME = "https://modelscope.cn"
"""Where it is; MODELSCOPE_ENDPOINT names another place, as a mirror."""
REVISION = "master"
ID = re.compile(r"[\w.-]+/[\w.-]+")
CHUNK = 1 << 20
SECONDS = 30.0
"""That an answer may be waited for."""


def place(model: str, revision: str | None) -> Path:
    """The folder of a model in llmkit's cache."""
    return cache.root() / "models" / f"modelscope-{model.replace('/', '--')}-{revision or REVISION}"


def fetched(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of `modelscope:OWNER/NAME`, fetched where it isn't here yet; files that no pattern names stay there.

    RequestError where it is no id, the hub is switched off, can't be reached, or has no such model.
    """
    model = name.removeprefix(PREFIX)
    if not ID.fullmatch(model) or ".." in model or (revision is not None and not re.fullmatch(r"[\w.-]+", revision)):
        raise RequestError(f"{name}: write {PREFIX}OWNER/NAME, as {PREFIX}Qwen/Qwen3-0.6B.")
    folder = place(model, revision)
    if folder.is_dir():
        return folder
    for variable in ("LLMKIT_OFFLINE", "HF_HUB_OFFLINE"):
        if switched_on(variable):
            raise RequestError(f"{name} isn't on this machine, and {variable} switches off the hub.")
    log.info("downloading %s from ModelScope", model)
    return cache.once("models", folder.name, lambda into: _fill(into, model, revision or REVISION, patterns))


def _fill(folder: Path, model: str, revision: str, patterns: Sequence[str]) -> None:
    """Fetch the files of a model that patterns name, each with its size and hash."""
    listed = json.loads(_asked(f"{_address(model)}/repo/files?{urlencode({'Revision': revision, 'Recursive': 'true'})}",
                               model).read())
    files: list[dict[str, Any]] = [each for each in (listed.get("Data") or {}).get("Files") or []
                                   if each.get("Type") != "tree"]
    wanted = [each for each in files if any(fnmatch(str(each["Path"]), pattern) for pattern in patterns)]
    if not any(str(each["Path"]).endswith(".safetensors") for each in wanted):
        raise RequestError(f"{PREFIX}{model} has no safetensors, and pickles can run code, so they aren't read.")
    for each in wanted:
        path = PurePosixPath(str(each["Path"]))
        if path.is_absolute() or ".." in path.parts:
            raise RequestError(f"{PREFIX}{model}: lists the file {str(path)!r}, which is outside of its folder.")
        asked = urlencode({"Revision": revision, "FilePath": str(path)})
        _keep(f"{_address(model)}/repo?{asked}", model, folder / path, each.get("Sha256"))


def _keep(address: str, model: str, target: Path, sha256: str | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with _asked(address, model) as answer, target.open("wb") as file:
        try:
            while chunk := answer.read(CHUNK):
                digest.update(chunk)
                file.write(chunk)
        except OSError as error:
            if error.filename is None:
                raise RequestError(f"{PREFIX}{model}: {target.name} broke off: {error}.") from error
            raise
    if sha256 and digest.hexdigest() != sha256:
        raise RequestError(f"{PREFIX}{model}: {target.name} isn't what ModelScope lists: its SHA-256 is "
                           f"{digest.hexdigest()}, expected {sha256}.")


def _address(model: str) -> str:
    return f"{(os.environ.get('MODELSCOPE_ENDPOINT') or HOME).rstrip('/')}/api/v1/models/{quote(model)}"


def _asked(address: str, model: str) -> Any:
    """An answer to be read; RequestError where there is none."""
    try:
        return urlopen(address, timeout=SECONDS)
    except HTTPError as error:
        if error.code == 404:
            raise RequestError(f"ModelScope has no model {model!r}, or no such revision of it.") from error
        raise RequestError(f"ModelScope answers {error.code} for {model!r}: {error.reason}.") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"ModelScope can't be reached for {model!r}: {getattr(error, 'reason', error)}.") from error
