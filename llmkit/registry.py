"""Find a plug-in by name: the public path of `llmkit.recipe.registry`."""

from llmkit.recipe.registry import BASES, KINDS, OPTIONS, Kind, find, name_of, names

__all__ = ["BASES", "KINDS", "OPTIONS", "Kind", "find", "name_of", "names"]
