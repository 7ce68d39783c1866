"""Variables of the environment in a recipe's paths: `${env:SCRATCH}/corpus.txt` is where this machine has it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmkit.recipe.fields import BLOCKS
from llmkit.recipe.reading import Keys, Tree
from llmkit.system.errors import RequestError, nearest

FOLDERS: Final = (
    "HOME", "LLMKIT_CACHE", "LLMKIT_DATA", "PBS_O_WORKDIR", "PROJECT", "SCRATCH", "SLURM_SUBMIT_DIR", "SLURM_TMPDIR",
    "TMPDIR", "WORK", "XDG_CACHE_HOME", "XDG_DATA_HOME")
"""Variables that name a folder: a path may begin with one."""
JOBS: Final = ("LSB_JOBID", "PBS_JOBID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID")
"""Variables that number a job: they may stand anywhere in a path."""
WRITTEN: Final = re.compile(r"\$\{(?:oc\.)?env[:,.]([^}]*)\}|\$\{\{?\s*env\.([^}]*?)\s*\}?\}")
"""A variable as a recipe names it, or as other programs do: `${oc.env:HOME}` (OmegaConf), `${{ env.HOME }}`."""
BEGUN: Final = re.compile(r"\$\{\{?\s*(?:oc\.)?env\b")
MEANT: Final = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
SHELLS: Final = re.compile(r"\$(?:([A-Z_][A-Z0-9_]*)|\{([A-Z_][A-Z0-9_]*)\})")
"""A variable as a shell has it: `$HOME`, `${HOME}`."""
JOB: Final = re.compile(r"[\w.\[\]-]{1,100}")
"""What a job's number may look like: `12345`, PBS's `12345.server`, LSF's `7[3]`; no slash."""
PLACES: Final[tuple[Keys, ...]] = (
    ("base",), ("output_dir",), ("backbone",), ("backbone", "pretrained"), ("tokenizer",), ("tokenizer", "pretrained"),
    ("teacher",), ("teacher", "model"), ("data", "augment", "swap"))
"""Fields that are a path, or may be one."""
SOURCES: Final = ("train", "validation")
FILE: Final = re.compile(r"(?:.*_)?(?:file|path|folder|dir|phrases)")
"""What a plug-in's option is called that is a path: `file`, `phrases`, `words_file`."""
ELSEWHERE: Final = re.compile(
    r"(?:tokens:)?(?:[a-z][a-z0-9+.-]+://|(?:hub|modelscope|builtin|memory):)", re.IGNORECASE)
"""How the name of something begins that is no path here: what a variable holds would be sent to others."""


def filled(tree: Tree, environment: Mapping[str, str] | None = None) -> Tree:
    """A recipe whose paths have the values of the variables that they name; no other field may name one.

        data: {train: "${env:SCRATCH}/wiki/*.txt"}   ->   data: {train: /scratch/ada/wiki/*.txt}

    RequestError, with file and line, for a variable that isn't on the list, isn't set, or stands where no path is.
    """
    return Tree(_filled(tree.root, (), tree, os.environ if environment is None else environment), tree.origin)


def _filled(value: Any, path: Keys, tree: Tree, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        for key in value:
            if BEGUN.search(str(key)):
                raise RequestError(f"{tree.where((*path, key))}: a variable may stand in a path only, and this is the "
                                   "name of a field.")
        return {key: _filled(below, (*path, key), tree, environment) for key, below in value.items()}
    if isinstance(value, list):
        return [_filled(below, (*path, i), tree, environment) for i, below in enumerate(value)]
    if isinstance(value, str) and is_place(path):
        _no_shells(value, tree.where(path))
    if not isinstance(value, str) or not BEGUN.search(value):
        return value
    if not is_place(path):
        raise RequestError(f"{tree.where(path)}: a variable may stand in a path only: in data's sources, models, "
                           "tokenizers, files that options name, base and output_dir. Write the value itself.")
    filled_in = path_of(value, tree.where(path), environment)
    if path[0] in ("backbone", "tokenizer", "teacher") and not filled_in.startswith(("/", "./", "../", "~")):
        raise RequestError(f"{tree.where(path)}: {value!r} may be a model's name on a hub, where no variable is sent; "
                           f"for a folder write ./{value}")
    return filled_in


def _no_shells(text: str, where: str) -> None:
    """RequestError for a variable of the list that is written as in a shell: it would be a folder of that name."""
    if ELSEWHERE.match(text):
        return
    for found in SHELLS.finditer(text):
        name = found[1] or found[2]
        if name in JOBS or (name in FOLDERS and text[: found.start()] in ("", "tokens:")):
            home = text[found.end():] or "/"
            more = f" (or ~{home})" if name == "HOME" else ""
            raise RequestError(f"{where}: {found[0]} isn't how a variable is written here; write "
                               f"${{env:{name}}}{more}.")


def is_place(path: Keys) -> bool:
    """Whether a field is a path: data's sources, models, folders, and options that are called after files.

    >>> is_place(("data", "train", 0, "source")), is_place(("prompting", "file")), is_place(("name",))
    (True, True, False)
    """
    if path in PLACES:
        return True
    if path[:1] == ("data",) and path[1:2] and path[1] in SOURCES:
        rest = [key for key in path[2:] if not isinstance(key, int)]
        return rest in ([], ["source"], ["target"])
    return len(path) == 2 and path[0] in BLOCKS and FILE.fullmatch(str(path[1])) is not None


def path_of(text: str, where: str, environment: Mapping[str, str] | None = None) -> str:
    """A path with its variables filled in; `where` is what errors call it.

    >>> path_of("${env:SCRATCH}/wiki", "data.train", {"SCRATCH": "/scratch/ada/"})
    '/scratch/ada/wiki'
    """
    if not BEGUN.search(text):
        return text
    environment = os.environ if environment is None else environment
    if ELSEWHERE.match(text):
        raise RequestError(f"{where}: a variable may stand in a path on this machine only, and what begins with "
                           f"{text.partition(':')[0]}: is elsewhere. Write the value itself.")
    for found in WRITTEN.finditer(text):
        if MEANT.fullmatch(found[0]) is None:
            name = re.split(r"[,:]", found[1] if found[1] is not None else found[2])[0].strip() or "NAME"
            more = " A default can't be given there." if re.search(r"[,:]", found[1] or "") else ""
            raise RequestError(f"{where}: {found[0]} isn't how a variable is written here; write "
                               f"${{env:{name}}}.{more}")
    if len(BEGUN.findall(text)) != len(MEANT.findall(text)):
        raise RequestError(f"{where}: {text!r}: a variable is written ${{env:NAME}}, as ${{env:HOME}}/corpora.")
    return MEANT.sub(lambda found: _value(found, text, where, environment), text)


def _value(found: re.Match[str], text: str, where: str, environment: Mapping[str, str]) -> str:
    """What one variable is; RequestError where it may not be named there, isn't set, or isn't what its name says."""
    name = found[1]
    if name not in (*FOLDERS, *JOBS):
        raise RequestError(f"{where}: {name} is no variable that a recipe may name (SECURITY.md has the list)."
                           f"{nearest(name, sorted((*FOLDERS, *JOBS)))} For another place use --set on the "
                           "command line.")
    value = environment.get(name, "")
    if not value:
        raise RequestError(f"{where}: {name} isn't set here: set it (export {name}=…), or write the path itself.")
    if name in JOBS:
        if JOB.fullmatch(value) is None or set(value) <= {"."}:
            raise RequestError(f"{where}: {name} is {value!r}, which is no number of a job.")
        return value
    if text[: found.start()] not in ("", "tokens:") or text[found.end():][:1] not in ("", "/"):
        raise RequestError(f"{where}: {name} is a folder: a path begins with it, as ${{env:{name}}}/corpora.")
    if not Path(value).is_absolute() or not value.isprintable():
        raise RequestError(f"{where}: {name} is {value!r}, and a whole path is needed there: one that begins with /.")
    return value if value == "/" else value.rstrip("/")

