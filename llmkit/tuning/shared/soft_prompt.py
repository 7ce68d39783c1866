"""A soft prompt put between the tokens that a model reads: learned rows stand where no token does.

The body is given longer rows, its embedding answers with the learned ones at the new places, and these are cut from
what it returns: heads, losses and pooling see the positions that they asked for. An encoder-decoder has the prompt in
its encoder, whose output keeps it, for the decoder attends to it too.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from llmkit.system.errors import CheckpointError, RequestError
from llmkit.tuning.shared.files import CONFIG, PLAIN_KEY, WEIGHTS, put_back
from llmkit.tuning.shared.near_words import WordEmbeddings, projected

OWN_TYPE = "LLMKIT_PROMPT"
"""The `peft_type` of adapters that plain peft can't reproduce, so that it refuses them."""

PLAIN_SHAPES = {"CAUSAL_LM": "decoder", "SEQ_2_SEQ_LM": "encoder-decoder"}
"""Task types for which peft's own prompt tuning gives the same outputs, and the shape of their models."""


@dataclass(frozen=True)
class SoftPromptAdapter:
    """What a prompted model knows of its prompt, and is saved beside the weights."""

    shape: str
    """Of the model: in an encoder the prompt stands behind each row's first token, [CLS], else in front of it."""
    before: int
    """Virtual tokens before the text."""
    after: int = 0
    """Virtual tokens behind it."""
    closed: bool = False
    """Whether these stand before the row's last token, because the tokenizer closes every text with one."""
    new: tuple[str, ...] = ()
    """Parts of the model that trained with it."""
    plain: bool = False
    """Whether peft's own prompt tuning gives the same outputs."""
    task_type: str | None = None
    base: str = ""


@dataclass(frozen=True)
class PromptLayout:
    """Where the tokens of a batch and the virtual tokens stand in the longer rows that the body reads."""

    places: Tensor
    """(batch, length): the new place of each token."""
    slots: Tensor
    """(batch, virtual): the place of each virtual token."""
    beside: Tensor
    """(batch, virtual): the token, by its old place, that each virtual token stands beside."""

    def spread(self, old: Tensor, new: Tensor | int) -> Tensor:
        """Rows (batch, length) made longer: `new` (batch, virtual) stands at the virtual tokens' places."""
        batch, length = self.places.shape
        rows = old.new_zeros(batch, length + self.slots.shape[1])
        filling = torch.full_like(self.slots, new) if isinstance(new, int) else new
        rows.scatter_(1, self.places, old.expand(batch, -1))
        return rows.scatter_(1, self.slots, filling.to(old.dtype))

    def types(self, old: Tensor) -> Tensor:
        """Token types, which a virtual token shares with the token beside it."""
        old = old.expand(len(self.places), -1)
        return self.spread(old, old.gather(1, self.beside))

    def positions(self, old: Tensor) -> Tensor:
        """Numbers of positions, counted on through the virtual tokens: 0 1 2 -> 0 (1 2) 3 4 behind the first."""
        moved = old + self.places - torch.arange(self.places.shape[1], device=old.device)
        steps = self.slots - self.places.gather(1, self.beside)
        return self.spread(moved, moved.gather(1, self.beside) + steps)

    def fill(self, embedded: Tensor, prompt: Tensor) -> Tensor:
        """Embeddings (batch, longer, width) with the prompt (virtual, width) at its places."""
        index = self.slots[:, :, None].expand(-1, -1, embedded.shape[2])
        return embedded.scatter(1, index, prompt.to(embedded.dtype).expand(len(index), -1, -1))

    def columns(self, old: Tensor) -> Tensor:
        """Something said of tokens (batch, n, length), with 0 for virtual tokens: (batch, n, longer)."""
        batch, length = self.places.shape
        wide = old.new_zeros(batch, old.shape[1], length + self.slots.shape[1])
        return wide.scatter_(2, self.places[:, None].expand_as(old), old)

    def hidden(self, old: Tensor) -> Tensor:
        """XLNet's mask (batch, query, key), 1 where a key is hidden: the prompt sees what no query is forbidden."""
        wide = self.columns(old)
        rows = wide.amax(1, keepdim=True).expand(-1, wide.shape[2], -1).clone()
        return rows.scatter_(1, self.places[:, :, None].expand_as(wide), wide)

    def cut(self, hidden: Tensor) -> Tensor:
        """Hidden states of the tokens alone. (batch, longer, width) -> (batch, length, width)"""
        return hidden.gather(1, self.places[:, :, None].expand(-1, -1, hidden.shape[2]))


class PromptTable(nn.Module):
    """A prompt whose rows are what trains."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(rows)

    def forward(self) -> Tensor:
        """(virtual, width)"""
        return self.weight


class PromptEncoder(nn.Module):
    """A prompt that comes out of a small network, added to the rows that it goes in as.

    The network of Liu et al. 2021 and of peft's PromptEncoder: two layers of a bidirectional LSTM, then
    two linear ones; or three linear ones. Its last layer starts at 0, so that the prompt starts as words (the sum is
    that of Razdaibiedina et al. 2023, "Residual Prompt Tuning").
    """

    def __init__(self, rows: Tensor, kind: Literal["MLP", "LSTM"], hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        width = rows.shape[1]
        self.weight = nn.Parameter(rows)
        self.lstm: nn.LSTM | None = None
        if kind == "LSTM":
            self.lstm = nn.LSTM(width, hidden, layers, dropout=dropout, bidirectional=True, batch_first=True)
            last = nn.Linear(2 * hidden, width)
            self.mlp = nn.Sequential(nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), last)
        else:
            last = nn.Linear(hidden, width)
            self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self) -> Tensor:
        """(virtual, width)"""
        read = self.weight[None] if self.lstm is None else self.lstm(self.weight[None])[0]
        made: Tensor = self.weight + self.mlp(read)[0]
        return made


class SoftPrompt(nn.Module):
    """The prompt of a model, and what puts it between the tokens of each batch."""

    def __init__(
        self, rows: nn.Module, adapter: SoftPromptAdapter, empty: int, words: WordEmbeddings | None = None,
        projects: bool = False,
    ) -> None:
        super().__init__()
        self.rows, self.adapter, self.words, self.projects = rows, adapter, words, projects
        self.empty = empty
        """The id at a virtual token's place: any but padding, which RoBERTa doesn't count."""
        self.layout: PromptLayout | None = None
        """Of the batch that the body is reading."""
        self.awaited = False
        """Whether its embedding hasn't been asked yet."""

    @property
    def tokens(self) -> int:
        """Virtual tokens, before and behind the text."""
        return self.adapter.before + self.adapter.after

    def read(self) -> Tensor:
        """The prompt as the model reads it, (virtual, width): what trains, or the words nearest to that."""
        rows: Tensor = self.rows()
        return projected(rows, self.words) if self.projects and self.words is not None else rows

    def lay_out(self, batch: int, length: int, mask: Tensor | None, device: torch.device) -> PromptLayout:
        """Where everything stands, which follows from the padding mask (batch, length) alone.

        [CLS] a b [SEP] ·  ->  [CLS] (before) a b (behind) [SEP] ·
        """
        adapter, places = self.adapter, torch.arange(length, device=device)
        start, end = torch.zeros(batch, 1, device=device).long(), torch.full((batch, 1), length, device=device)
        if mask is not None:
            real = mask > 0
            start = real.int().argmax(1, keepdim=True)
            end = length - real.flip(1).int().argmax(1, keepdim=True)
        first = start
        if adapter.shape == "encoder":
            start = start + 1
        end = torch.maximum(end - int(adapter.closed), start)
        moved = places + adapter.before * (places >= start) + adapter.after * (places >= end)
        before = start + torch.arange(adapter.before, device=device)
        behind = end + adapter.before + torch.arange(adapter.after, device=device)
        beside = torch.cat([first.expand_as(before), (end - 1).clamp(min=0).expand_as(behind)], 1)
        return PromptLayout(moved, torch.cat([before, behind], 1), beside)

    def before_body(
        self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Make the rows longer, or, where a cache holds the prompt already, the mask and the positions."""
        known = inspect.signature(body.forward).parameters
        given = {**dict(zip(known, args, strict=False)), **kwargs}
        mask, positions, cache = (given.get(key) for key in ("attention_mask", "position_ids", "past_key_values"))
        if cache is not None and cache.get_seq_length():
            if mask is not None:
                given["attention_mask"] = self.longer(mask)
            if positions is not None:
                given["position_ids"] = positions + self.tokens
            return (), given
        ids: Tensor | None = given.get("input_ids")
        embeds: Tensor = given["inputs_embeds"] if ids is None else torch.empty(0)
        read = embeds if ids is None else ids
        batch, length = read.shape[:2]
        flat = mask is not None and mask.dim() == 2
        layout = self.lay_out(batch, length, mask if flat else None, read.device)
        if ids is not None:
            given["input_ids"] = layout.spread(ids, self.empty)
            self.awaited = True
        else:
            room = embeds.new_zeros(batch, length + self.tokens, embeds.shape[2])
            index = layout.places[:, :, None].expand_as(embeds)
            given["inputs_embeds"] = layout.fill(room.scatter(1, index, embeds), self.read())
        if mask is not None:
            given["attention_mask"] = self.longer(mask, first=True)
        if positions is not None:
            given["position_ids"] = layout.positions(positions)
        if given.get("token_type_ids") is not None and "token_type_ids" in known:
            given["token_type_ids"] = layout.types(given["token_type_ids"])
        if given.get("perm_mask") is not None:
            given["perm_mask"] = layout.hidden(given["perm_mask"])
        if given.get("target_mapping") is not None:
            given["target_mapping"] = layout.columns(given["target_mapping"])
        self.layout = layout
        return (), given

    def longer(self, mask: Tensor, first: bool = False) -> Tensor:
        """A mask in which the prompt is seen: of padding (batch, keys), or of who sees whom (batch, 1, queries, keys).

        In the latter, which a decoder may be given, the prompt itself is read from left to right.
        """
        if mask.dim() == 2:
            return self.lay_out(len(mask), mask.shape[1], mask, mask.device).spread(mask, 1)
        added = mask.is_floating_point()  # to the scores: 0 where a key is seen
        yes, no = (0.0, torch.finfo(mask.dtype).min) if added else (True, False)
        wide = pad(mask, (self.tokens, 0), value=yes)
        if not first:
            return wide
        seen = torch.ones(self.tokens, wide.shape[3], dtype=torch.bool, device=mask.device).tril()
        rows = torch.full_like(seen, no, dtype=mask.dtype).masked_fill(seen, yes)
        return torch.cat([rows.expand(*mask.shape[:2], -1, -1), wide], 2)

    def at_embedding(self, embedding: nn.Module, args: tuple[Any, ...], embedded: Tensor) -> Tensor:
        """Put the prompt where the ids say nothing; once a batch, for GPT-2 embeds token types with it too."""
        if not self.awaited or self.layout is None:
            return embedded
        self.awaited = False
        if self.adapter.shape == "permuted":  # XLNet reads with the length first
            return self.layout.fill(embedded.transpose(0, 1), self.read()).transpose(0, 1)
        return self.layout.fill(embedded, self.read())

    def after_body(self, body: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Cut the prompt from what a body returns."""
        layout, self.layout = self.layout, None
        awaited, self.awaited = self.awaited, False
        if layout is None or output is None:  # None: the body raised
            return output
        if awaited:
            raise RequestError(f"tuning: a soft prompt can't reach the embeddings of {type(body).__name__}, which "
                               "aren't where transformers says. Use lora instead.")
        if output["last_hidden_state"].shape[1] <= layout.places.shape[1]:  # XLNet's targets alone
            return output
        output["last_hidden_state"] = layout.cut(output["last_hidden_state"])
        if output.get("hidden_states") is not None:
            output["hidden_states"] = tuple(layout.cut(hidden) for hidden in output["hidden_states"])
        return output

    def after_encoder(self, body: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """What a decoder will read keeps the prompt."""
        self.layout, self.awaited = None, False

    def before_decoder(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Let the decoder see the prompt in what the encoder returned."""
        given = {**dict(zip(inspect.signature(decoder.forward).parameters, args, strict=False)), **kwargs}
        mask = given.get("encoder_attention_mask")
        if mask is not None:
            given["encoder_attention_mask"] = self.longer(mask)
        return (), given


def parts(model: PreTrainedModel, shape: str) -> tuple[PreTrainedModel, nn.Module | None]:
    """What reads the text, and the decoder that reads from it, where there is one."""
    body: Any = model.base_model
    if shape != "encoder-decoder":
        return body, None
    named = dict(body.named_children())
    return named["encoder"], named.get("decoder")


def words(model: PreTrainedModel, shape: str, ids: Tensor) -> Tensor:
    """Embeddings of tokens as the body gets them. (tokens) -> (tokens, width)"""
    embedding = parts(model, shape)[0].get_input_embeddings()
    with torch.no_grad():
        found: Tensor = embedding(ids.to(model.device)[None])[0].float()
    return found.clone()


def takes_embeddings(model: PreTrainedModel, shape: str) -> bool:
    """Whether the model makes the same of embeddings as of ids: peft gives it those. Marian doesn't scale them."""
    body = parts(model, shape)[0]
    ids = torch.ones(1, 1, dtype=torch.long, device=model.device)
    was = body.training
    body.eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        a, b = body(input_ids=ids), body(inputs_embeds=body.get_input_embeddings()(ids))
    body.train(was)
    return torch.equal(a["last_hidden_state"], b["last_hidden_state"])


def attach(
    model: PreTrainedModel, adapter: SoftPromptAdapter, rows: nn.Module, *, words: WordEmbeddings | None = None,
    projects: bool = False, train_model: bool = False,
) -> None:
    """Put a prompt into a model; it and the parts that are new are all that trains, unless `train_model`.

    `projects`: whether the model reads the `words` nearest to the rows instead of these.
    """
    if not train_model:
        model.requires_grad_(False)
    empty = int(model.config.get_text_config().pad_token_id == 0)
    prompt = SoftPrompt(rows.to(model.device), adapter, empty, words, projects)
    body, decoder = parts(model, adapter.shape)
    body.register_forward_pre_hook(prompt.before_body, with_kwargs=True)
    body.get_input_embeddings().register_forward_hook(prompt.at_embedding)
    if decoder is None:
        body.register_forward_hook(prompt.after_body, always_call=True)
    else:
        body.register_forward_hook(prompt.after_encoder, always_call=True)
        decoder.register_forward_pre_hook(prompt.before_decoder, with_kwargs=True)
    for name in adapter.new:
        model.get_submodule(name).requires_grad_(True)
    model.add_module("soft_prompt", prompt)


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors: in peft's own layout where peft can read them."""
    prompt: Any = model.soft_prompt
    adapter: SoftPromptAdapter = prompt.adapter
    config: dict[str, Any] = {
        "peft_type": OWN_TYPE, "task_type": adapter.task_type, "base_model_name_or_path": adapter.base,
        "num_virtual_tokens": prompt.tokens, "modules_to_save": list(adapter.new) or None, "inference_mode": True}
    rows = prompt.read().detach()
    tensors = {
        f"base_model.{name}.{key}": tensor
        for name in adapter.new for key, tensor in model.get_submodule(name).state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    if adapter.plain:
        from peft import PromptTuningConfig

        tensors[PLAIN_KEY] = rows
        PromptTuningConfig(**{
            **config, "peft_type": "PROMPT_TUNING", "token_dim": rows.shape[1], "num_transformer_submodules": 1,
            # peft asks for both, and its prompts need neither
            "num_layers": 1, "num_attention_heads": 1}).save_pretrained(str(folder))
    else:
        tensors["base_model.soft_prompt"] = rows
        placed = {"shape": adapter.shape, "before": adapter.before, "after": adapter.after, "closed": adapter.closed}
        (folder / CONFIG).write_text(json.dumps({**config, "placed": placed}, indent=2) + "\n", encoding="utf-8")
    save_file({key: tensor.detach().cpu().clone() for key, tensor in tensors.items()}, folder / WEIGHTS)


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write the model without its prompt, as transformers reads it."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("soft_prompt.")}
    model.save_pretrained(folder, state_dict=weights)


def load(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Put a saved prompt, of either layout, and the parts that trained with it on the model they were trained on.

    What another program trained through peft in a way of peft's own opens in peft.
    """
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    plain = config["peft_type"] == "PROMPT_TUNING"
    shape = PLAIN_SHAPES.get(str(config["task_type"]), "") if plain else config["placed"]["shape"]
    if plain and not (shape and takes_embeddings(model, shape)):
        from peft import PeftModel

        opened: Any = PeftModel.from_pretrained(model, str(folder), local_files_only=True)
        return opened  # type: ignore[no-any-return]
    tensors = load_file(folder / WEIGHTS)
    rows = tensors.pop(PLAIN_KEY if plain else "base_model.soft_prompt", torch.empty(0, 0))
    if plain:
        rows = rows[: config["num_virtual_tokens"]]  # peft makes a decoder's too, and doesn't use them
    wanted = (config["num_virtual_tokens"], words(model, shape, torch.zeros(1, dtype=torch.long)).shape[1])
    if rows.shape != wanted:
        raise CheckpointError(
            f"{folder / WEIGHTS}: a prompt of shape {tuple(rows.shape)}, where {type(model).__name__} takes {wanted}; "
            "it belongs to another model.")
    put_back(model, tensors, folder)
    placed = {"before": len(rows), "shape": shape} if plain else config["placed"]
    named = dict(model.named_modules())
    attach(model, SoftPromptAdapter(
        **placed, new=tuple(name for name in config["modules_to_save"] or () if name in named), plain=plain,
        task_type=config["task_type"], base=config["base_model_name_or_path"] or ""), PromptTable(rows))
    model.requires_grad_(False).eval()  # type: ignore[no-untyped-call]
    return model
