"""Data sets that `datasets` loads: `hub:org/name`, `hub:org/name:config`, `hub:org/name:config:split`, and folders."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from llmkit.data.files import Place, changed, digest, state_of, unchanged
from llmkit.data.known import folders, sets
from llmkit.data.known.sets import KnownSet
from llmkit.recipe import Source
from llmkit.system.addresses import at_home
from llmkit.system.environment import switched_on
from llmkit.system.errors import DataError, NothingThereError, RequestError


@dataclass(frozen=True)
class HubRows:
    """A data set that was loaded."""

    kind: ClassVar[str] = "hub"
    label: str
    """What the recipe said; errors name rows of it."""
    dataset: Any
    """A `datasets.Dataset`."""
    files: Mapping[Path, tuple[int, ...]] = field(default_factory=dict)
    """The files that it is of, where it is a folder here, each with what told it from others when it was loaded."""
    digests: dict[Path, str] = field(default_factory=dict)
    """The digests of these, once the fingerprint was asked for: what is read must be of them."""

    def rows(self, spare: object = None) -> Iterator[tuple[dict[str, Any], Place]]:
        """Each row with its number from 1; Changed where a file isn't what it was when the fingerprint was taken."""
        for number, row in enumerate(self.dataset, 1):
            yield row, Place(self.label, number)
        for path, said in self.digests.items():
            unchanged(path, said)

    def fingerprint(self) -> str:
        """The one that `datasets` keeps of it; of a folder, one of what is in its files, wherever it is.

        Changed where a file isn't the one that was loaded.
        """
        if not self.files:
            return str(self.dataset._fingerprint)
        for path in self.files.keys() - self.digests.keys():
            self.digests[path] = self._digest(path)
        return hashlib.sha256("".join(self.digests[path] for path in self.files).encode()).hexdigest()

    def _digest(self, path: Path) -> str:
        found = digest(path)
        if state_of(path.stat()) != self.files[path]:
            raise changed(path)
        return found

    def features(self) -> dict[str, Any]:
        """What it says of its columns: types, and the names of numbered classes."""
        return dict(self.dataset.features.to_dict())


@dataclass(frozen=True)
class KnownRows(HubRows):
    """A data set of GLUE or CLUE, by our names of its fields."""

    kind: ClassVar[str] = "known"
    known: KnownSet = field(default_factory=lambda: KnownSet({}))
    """What there is to know of it."""

    def rows(self, spare: object = None) -> Iterator[tuple[dict[str, Any], Place]]:
        """Each row with its number from 1."""
        for row, place in super().rows(spare):
            yield self.known.row(row), place

    def features(self) -> dict[str, Any]:
        """The names of its classes."""
        return {"label": {"_type": "ClassLabel", "names": list(self.known.labels)}} if self.known.labels else {}


def split_of(source: Source, named: str | None) -> str:
    """The split that is meant: the one behind the name, else the recipe's. RequestError where these are two."""
    if named and source.split not in ("train", named):
        raise RequestError(f"{source.source}: names the split {named!r}, and `split` says {source.split!r}; leave out "
                           "one of the two.")
    return named or source.split


def load_folder(source: Source) -> HubRows | None:
    """Load a folder that `datasets` laid out, or its split: `glue/sst2`, `glue/sst2:validation`; None for any other.

    Raises RequestError for a split that it hasn't, DataError where it can't be read.
    """
    path, named = folders.parted(source.source)
    folder = at_home(path)
    if not os.path.isdir(folder) or not folders.splits_of(folder):
        return None
    dataset, files = folders.load(folder, split_of(source, named), source.source)
    config = str(dataset.info.config_name or "")
    known = None
    for name in (folder.resolve().name, config) if not source.fields else ():
        known = known or sets.by_columns(name, dataset.column_names)
    if known is None:
        return HubRows(source.source, dataset, files)
    return KnownRows(source.source, dataset, files, known=known)


def load(source: Source) -> HubRows:
    """Load what a source names. No code of the hub is run.

    Raises RequestError where no id is given, DataError where it can't be loaded or the hub is forbidden.
    """
    label = source.source
    name, _, rest = label.removeprefix("hub:").partition(":")
    config, _, named = rest.partition(":")
    if not name:
        raise RequestError(f"{label!r}: write hub:<id> or hub:<id>:<config>.")
    split, known = split_of(source, named), sets.on_hub(name, config) if not source.fields else None
    forbidden = list(filter(switched_on, ("LLMKIT_OFFLINE", "HF_HUB_OFFLINE")))
    if forbidden == ["LLMKIT_OFFLINE"]:  # datasets obeys only the hub's own switch, and still has its cache then
        raise DataError(f"{label}: LLMKIT_OFFLINE forbids the hub; set HF_HUB_OFFLINE=1 too to read its cache.")

    import datasets

    try:
        dataset = datasets.load_dataset(name, config or None, split=split)
        return HubRows(label, dataset) if known is None else KnownRows(label, dataset, known=known)
    except ConnectionError as error:
        why = f"{' and '.join(forbidden)} is set and it isn't in the cache" if forbidden else "the hub can't be reached"
        raise NothingThereError(f"{label}: {why} ({error}); give a file, or builtin:python-docs.") from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{label}: split {split!r} can't be loaded from the hub: {reason}") from error
