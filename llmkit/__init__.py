"""llmkit: pretrain, fine-tune and use language models from recipes.

>>> import llmkit
>>> recipe = llmkit.load_recipe("bert_mlm", ["training.max_steps=10"])
>>> summary = llmkit.fit(recipe)                              # doctest: +SKIP
>>> llmkit.generate("Tell me a story about a cat")            # doctest: +SKIP
>>> llmkit.search("copy a file", "builtin:python-docs")       # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmkit.exporting import export
    from llmkit.inference.answering.answer import answer
    from llmkit.inference.evaluate import evaluate
    from llmkit.inference.generate import generate
    from llmkit.inference.predict import predict
    from llmkit.inference.search import search
    from llmkit.inference.sentences import score
    from llmkit.objectives.shared.collator import DataCollator
    from llmkit.recipe import load as load_recipe
    from llmkit.system.errors import LlmkitError
    from llmkit.training.callbacks import Callback
    from llmkit.training.fit import fit

__all__ = [
    "Callback", "DataCollator", "LlmkitError", "answer", "evaluate", "export", "fit", "generate", "load_recipe",
    "predict", "score", "search",
]

_PLACES = {"load_recipe": ("recipe", "load"), "fit": ("training.fit", "fit"),
           "generate": ("inference.generate", "generate"), "evaluate": ("inference.evaluate", "evaluate"),
           "export": ("exporting", "export"), "search": ("inference.search", "search"),
           "answer": ("inference.answering.answer", "answer"), "score": ("inference.sentences", "score"),
           "Callback": ("training.callbacks", "Callback"),
           "LlmkitError": ("system.errors", "LlmkitError"), "predict": ("inference.predict", "predict"),
           "DataCollator": ("objectives.shared.collator", "DataCollator")}


def __getattr__(name: str) -> Any:
    """Import a function when it is first used: `import llmkit` itself is instant."""
    if name not in _PLACES:
        raise AttributeError(f"module 'llmkit' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(f"llmkit.{module}"), attribute)


def __dir__() -> list[str]:
    """The public names, for Tab: nothing is imported to list them."""
    return sorted(__all__)
