"""Models: where they come from, and how they are opened."""

from llmkit.models.open import (
    CATALOGUE,
    LAYERS,
    NO_CODE,
    OWN_ADAPTERS,
    SAFE,
    UNREADABLE,
    Entry,
    Opened,
    beside,
    cached,
    chats,
    check_weights,
    config_of,
    find,
    head_of,
    hub_answers,
    kind_of,
    merge,
    open_model,
    place,
    pull,
    quiet,
    read_json,
    resolve,
    switched_on,
)

__all__ = [
    "CATALOGUE", "LAYERS", "NO_CODE", "OWN_ADAPTERS", "SAFE", "UNREADABLE", "Entry", "Opened", "beside", "cached",
    "chats", "check_weights", "config_of", "find", "head_of", "hub_answers", "kind_of", "merge", "open_model", "place",
    "pull", "quiet", "read_json", "resolve", "switched_on",
]
