"""Generation: a prompt goes in, one or several texts come out, word by word where one is enough."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

    from llmkit.models import Opened


@dataclass(frozen=True)
class Options:
    """How the next token is chosen, and for how long.

    Where `do_sample` isn't given, tokens are sampled if one of temperature, top_p and top_k is, if several texts are
    asked for without beams, or if the model's generation config says so; else the likeliest token is taken each time.
    """

    max_new_tokens: int = 200
    """Tokens written at most."""
    num_return_sequences: int = 1
    """Texts written for the prompt."""
    temperature: float | None = None
    """Below 1 the likely gets likelier, above 1 less so."""
    top_p: float | None = None
    """Only the likeliest tokens that together have this probability are drawn from."""
    top_k: int | None = None
    """Only this many of the likeliest tokens are drawn from."""
    num_beams: int = 1
    """Texts that are followed side by side; the likeliest whole one wins."""
    do_sample: bool | None = None
    """Draw tokens at random (true) or take the likeliest (false)."""
    repetition_penalty: float | None = None
    """Above 1, tokens that already stand in the text get less likely."""
    seed: int | None = None
    """The same seed gives the same text; none: another one each time."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_return_sequences", "num_beams"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name}: {getattr(self, name)} must be 1 or more.")
        for name in ("temperature", "repetition_penalty"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                way_out = " For the likeliest token each time, use do_sample false." if name == "temperature" else ""
                raise RequestError(f"{name}: {value} must be above 0.{way_out}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise RequestError(f"top_p: {self.top_p} must be above 0 and at most 1.")
        if self.top_k is not None and self.top_k < 1:
            raise RequestError(f"top_k: {self.top_k} must be 1 or more.")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise RequestError(f"seed: {self.seed} must be 0 or more, and below 2**63.")
        if self.do_sample is False and self._chance():
            raise RequestError(f"{self._chance()} has no effect with do_sample false: leave one of them out.")
        if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
            raise RequestError(f"num_return_sequences: {self.num_beams} beams can't give {self.num_return_sequences} "
                               f"texts; use num_beams {self.num_return_sequences} or more.")
        if self.do_sample is False and self.num_beams == 1 and self.num_return_sequences > 1:
            raise RequestError("num_return_sequences: without sampling or beams every text is the same; ask for one.")

    def _chance(self) -> str:
        """The first option that only sampling has a use for."""
        return next((n for n in ("temperature", "top_p", "top_k") if getattr(self, n) is not None), "")

    def config(self, model: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
        """The model's own generation config with these options over it."""
        config = copy.deepcopy(model)
        several = self.num_return_sequences > 1 and self.num_beams == 1
        sample = self.do_sample
        if sample is None:
            sample = bool(self._chance()) or several or bool(config.do_sample)
        given: dict[str, Any] = {
            "do_sample": sample, "num_beams": self.num_beams, "num_return_sequences": self.num_return_sequences,
            "max_new_tokens": self.max_new_tokens, "max_length": None, "min_length": None}
        for name in ("temperature", "top_p", "top_k"):
            if not sample:
                given[name] = None
            elif getattr(self, name) is not None:
                given[name] = getattr(self, name)
        if self.repetition_penalty is not None:
            given["repetition_penalty"] = self.repetition_penalty
        if config.eos_token_id is None:
            given["eos_token_id"] = tokenizer.eos_token_id
        if config.pad_token_id is None:
            # One prompt has no padding; only texts that end before others have, and those are cut off again.
            ends = given.get("eos_token_id", config.eos_token_id)
            first = ends[0] if isinstance(ends, list) else ends
            given["pad_token_id"] = next((i for i in (tokenizer.pad_token_id, first) if i is not None), 0)
        for name, value in given.items():
            setattr(config, name, value)
        return config


@dataclass(frozen=True)
class Completion:
    """One text that the model wrote."""

    text: str
    tokens: int
    """Tokens written, the end token not counted."""
    finish_reason: str
    """`stop`: the model ended it; `length`: it was cut."""


@dataclass(frozen=True)
class Result:
    """What a prompt gave."""

    prompt: str
    model: str
    completions: list[Completion]
    notes: tuple[str, ...] = ()
    """What was changed on the way, in words."""

    def as_json(self) -> dict[str, Any]:
        """`{"prompt": …, "model": …, "completions": [{"text": …, "tokens": …, "finish_reason": …}]}`."""
        texts = [{"text": c.text, "tokens": c.tokens, "finish_reason": c.finish_reason} for c in self.completions]
        return {"prompt": self.prompt, "model": self.model, "completions": texts}


def generate(
    prompt: str,
    model: str = "smollm2-135m-instruct",
    options: Options = Options(),
    *,
    stream: Callable[[str], None] | None = None,
    system: str | None = None,
    raw: bool = False,
) -> Result:
    """Let a model (a folder, a run, a catalogue name, a hub id) answer or go on with a prompt.

    A tokenizer with a chat template makes a conversation of it, with `system` before; `raw` goes on with the text as
    it stands. An encoder-decoder reads the prompt in its encoder. `stream` gets the text piece by piece, where one
    text without beams is asked for, else whole texts at the end. RequestError: the model writes no text, or the
    prompt is longer than its context.
    """
    from llmkit.models import open_model, resolve

    folder = resolve(model)
    dtype, device = numbers(folder)
    return answer(prompt, model, open_model(folder, dtype=dtype), options, device=device, stream=stream, system=system,
                  raw=raw)


def answer(
    prompt: str,
    name: str,
    opened: Opened,
    options: Options,
    *,
    device: str = "cpu",
    stream: Callable[[str], None] | None = None,
    system: str | None = None,
    raw: bool = False,
) -> Result:
    """`generate` with a model that is open already; `name` is what the result calls it."""
    import torch

    from llmkit.models import quiet

    if opened.kind not in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM"):
        raise RequestError(f"{name} is a {opened.model.config.model_type} opened as {opened.kind}: it reads text and "
                           "doesn't write any. Use a decoder (gpt2, llama) or an encoder-decoder (t5).")
    if options.seed is None:
        chance: Any = nullcontext()
    else:
        chance = torch.random.fork_rng()
    model, tokenizer = opened.model.to(device), opened.tokenizer  # type: ignore[arg-type]
    reads = opened.kind == "AutoModelForSeq2SeqLM"
    ids = _ids(prompt, tokenizer, name, system, raw, reads)
    room, notes = _room(len(ids), opened, reads, options.max_new_tokens)
    batch = torch.tensor([ids], device=device)  # (1, prompt)
    live = stream is not None and options.num_return_sequences == 1 and options.num_beams == 1
    pieces = _Pieces(tokenizer, stream) if stream is not None and live else None
    with quiet(), chance, torch.inference_mode():
        config = options.config(_defaults(model), tokenizer)
        config.max_new_tokens = room
        if options.seed is not None:
            torch.manual_seed(options.seed)
        out = model.generate(
            input_ids=batch, attention_mask=torch.ones_like(batch), generation_config=config, streamer=pieces)
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    written = out[:, 1 if reads else len(ids):].tolist()
    completions = [_completion(row, ends, tokenizer) for row in written]
    if stream is not None and not live:
        for completion in completions:
            stream(completion.text + "\n")
    return Result(prompt, name, completions, notes)


def numbers(folder: Path) -> tuple[str, str]:
    """The dtype and the device to generate with: on a GPU bf16, on a CPU bf16 where its cores multiply it faster.

    A token reads every weight once, so half the bytes is the gain; a narrow model fits in the cache and has none.
    """
    import torch
    from transformers import AutoConfig

    if torch.cuda.is_available():
        return ("bfloat16" if torch.cuda.is_bf16_supported() else "float32"), "cuda"
    if not (folder / "config.json").is_file():
        return "float32", "cpu"
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    wide = config.get_text_config().hidden_size >= 256
    return ("bfloat16" if wide and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"), "cpu"


def _defaults(model: PreTrainedModel) -> GenerationConfig:
    from transformers import GenerationConfig

    return model.generation_config or GenerationConfig.from_model_config(model.config)


def _ids(
    prompt: str, tokenizer: PreTrainedTokenizerBase, name: str, system: str | None, raw: bool, reads: bool
) -> list[int]:
    """The prompt's token ids as the model expects them."""
    chat = tokenizer.chat_template is not None and not raw and not reads
    if system is not None and not chat:
        raise RequestError(f"system: {name} takes no system prompt here: "
                           + ("raw text has none." if raw else "its tokenizer has no chat template."))
    if chat:
        talk = [{"role": "system", "content": system}] if system is not None else []
        talk.append({"role": "user", "content": prompt})
        batch: Any = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)
        ids = list(batch["input_ids"])
    else:
        ids = list(tokenizer(prompt)["input_ids"])
        closed = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(str(tokenizer.eos_token))
        if closed and not reads:
            ids.pop()  # some tokenizers close every text, and a closed text isn't gone on with
    if not ids:
        starts = [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None]
        if not starts:
            raise RequestError(f"the prompt is empty, and {name} has no token to start a text with: give a word.")
        ids = starts[:1]
    return ids


def _room(prompt: int, opened: Opened, reads: bool, wanted: int) -> tuple[int, tuple[str, ...]]:
    """How many tokens can be written, and a note where that is fewer than wanted."""
    # Families with relative positions have no such field, XLNet's says -1.
    limit = getattr(opened.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None or limit <= 0:
        return wanted, ()
    taken = prompt + opened.virtual_tokens
    prefix = f" and the adapter's {opened.virtual_tokens}" if opened.virtual_tokens else ""
    most = limit if reads else limit - 1
    if taken > most:
        raise RequestError(f"the prompt's {prompt} tokens{prefix} are {taken - most} more than the {most} that the "
                           f"model's context of {limit} takes; shorten the prompt.")
    room = limit - 1 if reads else limit - taken
    if room >= wanted:
        return wanted, ()
    return room, (f"max_new_tokens is {room}, not {wanted}: the model has {limit} positions"
                  + ("." if reads else f", and the prompt{' with the adapter' if prefix else ''} takes {taken}."),)


def _completion(row: list[int], ends: list[int | None], tokenizer: PreTrainedTokenizerBase) -> Completion:
    end = next((at for at, token in enumerate(row) if token in ends), None)
    ids = row if end is None else row[:end]
    return Completion(_text(tokenizer, ids), len(ids), "length" if end is None else "stop")


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


class _Pieces:
    """What transformers calls with each new token: hands on the text as soon as its characters are whole."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Callable[[str], None]) -> None:
        self.tokenizer, self.write = tokenizer, write
        self.ids: list[int] = []
        self.sent = ""
        self.prompted = False

    def put(self, value: Tensor) -> None:
        if not self.prompted:  # the first call brings the prompt
            self.prompted = True
            return
        self.ids.extend(value.flatten().tolist())
        text = _text(self.tokenizer, self.ids)
        # A character of several tokens decodes to the replacement character until its last one is there.
        if not text.endswith("\ufffd"):
            self._send(text)

    def end(self) -> None:
        self._send(_text(self.tokenizer, self.ids))

    def _send(self, text: str) -> None:
        if text.startswith(self.sent) and text != self.sent:
            self.write(text[len(self.sent):])
            self.sent = text
