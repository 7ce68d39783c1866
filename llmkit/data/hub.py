"""Data sets of the hub: `hub:org/name` or `hub:org/name:config`, loaded by `datasets`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from llmkit.data.files import Place
from llmkit.recipe import Source
from llmkit.system.environment import switched_on
from llmkit.system.errors import DataError, RequestError


@dataclass(frozen=True)
class HubRows:
    """A data set that was loaded."""

    kind: ClassVar[str] = "hub"
    label: str
    """What the recipe said; errors name rows of it."""
    dataset: Any
    """A `datasets.Dataset`."""

    def rows(self, spare: object = None) -> Iterator[tuple[dict[str, Any], Place]]:
        """Each row with its number from 1."""
        for number, row in enumerate(self.dataset, 1):
            yield row, Place(self.label, number)

    def fingerprint(self) -> str:
        """The one that `datasets` keeps of it."""
        return str(self.dataset._fingerprint)

    def features(self) -> dict[str, Any]:
        """What it says of its columns: types, and the names of numbered classes."""
        return dict(self.dataset.features.to_dict())


def load(source: Source) -> HubRows:
    """Load what a source names. No code of the hub is run.

    Raises RequestError where no id is given, DataError where it can't be loaded or the hub is forbidden.
    """
    label = source.source
    name, _, config = label.removeprefix("hub:").partition(":")
    if not name:
        raise RequestError(f"{label!r}: write hub:<id> or hub:<id>:<config>.")
    forbidden = list(filter(switched_on, ("LLMKIT_OFFLINE", "HF_HUB_OFFLINE")))
    if forbidden == ["LLMKIT_OFFLINE"]:  # datasets obeys only the hub's own switch, and still has its cache then
        raise DataError(f"{label}: LLMKIT_OFFLINE forbids the hub; set HF_HUB_OFFLINE=1 too to read its cache.")

    import datasets

    try:
        return HubRows(label, datasets.load_dataset(name, config or None, split=source.split))
    except ConnectionError as error:
        why = f"{' and '.join(forbidden)} is set and it isn't in the cache" if forbidden else "the hub can't be reached"
        raise DataError(f"{label}: {why} ({error}); give a file, or builtin:python-docs.") from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{label}: split {source.split!r} can't be loaded from the hub: {reason}") from error
