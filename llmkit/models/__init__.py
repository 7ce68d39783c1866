"""Models: where they come from, and how they are opened."""

from llmkit.models.base import (
    Base,
)
from llmkit.models.catalogue import (
    CATALOGUE,
    Entry,
    find,
)
from llmkit.models.fetch import (
    SAFE,
    cached,
    commit_of,
    hub_answers,
    place,
    pull,
    resolve,
    resolve_tokenizer,
)
from llmkit.models.files import (
    LAYERS,
    NO_CODE,
    UNREADABLE,
    check_weights,
    config_of,
    quiet,
    read_json,
)
from llmkit.models.merging import (
    merge,
)
from llmkit.models.opening import (
    OWN_ADAPTERS,
    Opened,
    beside,
    chats,
    check_model,
    head_of,
    kind_of,
    open_model,
)

__all__ = [
    "CATALOGUE",
    "LAYERS",
    "NO_CODE",
    "OWN_ADAPTERS",
    "SAFE",
    "UNREADABLE",
    "Base",
    "Entry",
    "Opened",
    "beside",
    "cached",
    "chats",
    "check_model",
    "check_weights",
    "commit_of",
    "config_of",
    "find",
    "head_of",
    "hub_answers",
    "kind_of",
    "merge",
    "open_model",
    "place",
    "pull",
    "quiet",
    "read_json",
    "resolve",
    "resolve_tokenizer",
]
