"""Look at a soft prompt that was trained: which words of the vocabulary its virtual tokens are nearest to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmkit.models import Base, layout
from llmkit.system.errors import RequestError

TOP = 3
"""Words that are listed of each virtual token."""
KINDS = ("LLMKIT_PROMPT", "PROMPT_TUNING")
"""Values of peft_type in the adapters that prompt and p_tuning leave; peft's own prompt tuning has the latter too."""
PREFIXES = ("LLMKIT_PREFIX", "PREFIX_TUNING")
"""Those of the adapters that prefix leaves."""
KNOWN = ("the nearest words needn't say what a prompt does: prompts that do the same may be near to quite other words "
         "(Lester et al. 2021, §7; Khashabi et al. 2022)")


def near_words(model: str | Path) -> dict[str, Any]:
    """The words, special tokens aside, that each virtual token of a run's prompt is nearest to by Euclidean distance.

    Returns {"model", "virtual_tokens": [{"position", "side": "before" or "behind" the text, "length": of the embedding,
    "nearest": [{"id", "token": as the vocabulary writes it, "text": decoded, "cosine", "distance"}]}], "note"}.
    RequestError where a run has no soft prompt.
    """
    from llmkit.models import open_model
    from llmkit.tuning.shared import soft_prompt
    from llmkit.tuning.shared.near_words import listed, table_of

    base = Base.open(model)
    if base.adapter.get("peft_type") in PREFIXES:
        raise RequestError(
            f"{model}: its prefix is keys and values of every layer, and no word of the vocabulary has such; how much "
            "each head looks at them is shown by `llmkit explain --what attention`.")
    if base.adapter.get("peft_type") not in KINDS:
        raise RequestError(
            f"{model}: has no soft prompt whose words could be looked at (methods prompt and p_tuning leave one); to "
            f"see the rows that a run learns from, name its recipe: {Path(model) / layout.RECIPE}.")
    opened = open_model(base)
    tuned: Any = opened.model
    if hasattr(tuned, "get_base_model"):  # peft's own, of an encoder: its rows stand in front of all
        rows, before = tuned.prompt_encoder["default"].embedding.weight, opened.virtual_tokens
        embedding = tuned.get_base_model().get_input_embeddings()
    else:
        prompt = tuned.soft_prompt
        rows, before = prompt.read(), prompt.adapter.before
        embedding = soft_prompt.parts(tuned, prompt.adapter.shape)[0].get_input_embeddings()
    rows, tokenizer = rows.detach()[: opened.virtual_tokens].float(), opened.tokenizer
    found = listed(rows, table_of(embedding, tokenizer), TOP)
    return {"model": str(model), "virtual_tokens": [
        {"position": i, "side": "before" if i < before else "behind", "length": float(rows[i].norm()), "nearest": [
            {"id": number, "token": str(tokenizer.convert_ids_to_tokens(number)), "text": tokenizer.decode([number]),
             "cosine": cosine, "distance": distance} for number, cosine, distance in near]}
        for i, near in enumerate(found)], "note": KNOWN}


def spelled(word: dict[str, Any]) -> str:
    """A token as it is shown: decoded, with what a word's piece or a space needs: `▁the`, `##ing`, `中`.

    A piece of bytes that is no whole character is shown as the vocabulary writes it.
    """
    token, text = str(word["token"]), str(word["text"])
    if "�" in text or not text:
        return token
    if token.startswith("##") and not text.startswith("##"):
        return f"##{text}"
    space = "▁" if token.startswith(("▁", "Ġ")) and not text.startswith(" ") else ""
    return (space + text).replace(" ", "▁").replace("\n", "⏎")
