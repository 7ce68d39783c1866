"""Writing: prompts go in together, texts come out, piece by piece where somebody watches."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmkit import models
from llmkit.inference.writing.token_loop import Completion, Feed, Text, Until, logprobs_of, padded, steps
from llmkit.models import templates
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, PreTrainedTokenizerBase

    from llmkit.backbones.kernels.packed_decoder import Decoder
    from llmkit.models import Opened

WRITERS = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
"""Auto classes of models that write."""


@dataclass(frozen=True)
class Options:
    """How the next token is chosen, and for how long.

    Where `do_sample` isn't given, tokens are sampled if one of temperature, top_p, top_k, min_p and typical_p is, if
    several texts are asked for without beams, or if the model's generation config says so; else the likeliest token is
    taken each time.
    """

    max_new_tokens: int = 200
    """Tokens written at most."""
    num_return_sequences: int = 1
    """Texts written for the prompt."""
    temperature: float | None = None
    """Below 1 the likely gets likelier, above 1 less so; 0: the likeliest token each time."""
    top_p: float | None = None
    """Only the likeliest tokens that together have this probability are drawn from (Holtzman et al. 2020)."""
    top_k: int | None = None
    """Only this many of the likeliest tokens are drawn from."""
    min_p: float | None = None
    """Only tokens at least this share as likely as the likeliest are drawn from (Nguyen et al. 2024)."""
    typical_p: float | None = None
    """Only tokens about as surprising as is to be expected, of this probability together (Meister et al. 2023)."""
    num_beams: int = 1
    """Texts that are followed side by side; the likeliest whole one wins."""
    length_penalty: float | None = None
    """Of beam search: a text's log-likelihood is divided by its length to this power; above 1 favours long ones."""
    do_sample: bool | None = None
    """Draw tokens at random (true) or take the likeliest (false)."""
    repetition_penalty: float | None = None
    """Above 1, tokens that already stand in the text get less likely."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; it stops short of them."""
    seed: int | None = None
    """The same seed gives the same text; none: another one each time."""
    logprobs: int | None = None
    """Tell of each token how likely it was, and of so many that were the likeliest there."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_return_sequences", "num_beams"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name}: {getattr(self, name)} must be 1 or more.")
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise RequestError(f"temperature: {self.temperature} must be 0 or more.")
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty < float("inf"):
            raise RequestError(f"repetition_penalty: {self.repetition_penalty} must be above 0.")
        for name in ("top_p", "min_p", "typical_p"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) <= 1:
                raise RequestError(f"{name}: {getattr(self, name)} must be above 0 and at most 1.")
        if self.top_k is not None and self.top_k < 1:
            raise RequestError(f"top_k: {self.top_k} must be 1 or more.")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise RequestError(f"seed: {self.seed} must be 0 or more, and below 2**63.")
        if self.logprobs is not None and not 0 <= self.logprobs <= 100:
            raise RequestError(f"logprobs: {self.logprobs} must be between 0 and 100.")
        if "" in self.stop:
            raise RequestError("stop: an empty string would end every text before it starts.")
        if self.do_sample is False and self._chance():
            raise RequestError(f"{self._chance()} has no effect with do_sample false: leave one of them out.")
        if self.do_sample and self.temperature == 0:
            raise RequestError("temperature: 0 takes the likeliest token each time; leave do_sample out.")
        if self.length_penalty is not None and self.num_beams == 1:
            raise RequestError("length_penalty: is for beam search; use num_beams 2 or more, or leave it out.")
        if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
            raise RequestError(f"num_return_sequences: {self.num_beams} beams can't give {self.num_return_sequences} "
                               f"texts; use num_beams {self.num_return_sequences} or more.")
        greedy = self.do_sample is False or self.temperature == 0
        if greedy and self.num_beams == 1 and self.num_return_sequences > 1:
            raise RequestError("num_return_sequences: without sampling or beams every text is the same; ask for one.")

    def _chance(self) -> str:
        """The first option that only sampling has a use for."""
        names = ("temperature", "top_p", "top_k", "min_p", "typical_p")
        return next((name for name in names if getattr(self, name)), "")

    def config(self, model: GenerationConfig, ends: Sequence[int], pad: int) -> GenerationConfig:
        """The model's own generation config with these options over it."""
        config = copy.deepcopy(model)
        sample = self.do_sample
        if self.temperature == 0:
            sample = False
        elif sample is None:
            several = self.num_return_sequences > 1 and self.num_beams == 1
            sample = bool(self._chance()) or several or bool(config.do_sample)
        given: dict[str, Any] = {
            "do_sample": sample, "num_beams": self.num_beams, "num_return_sequences": self.num_return_sequences,
            "max_length": None, "min_length": None, "eos_token_id": list(ends) or None, "pad_token_id": pad,
            # what comes back, and how it is kept, is ours to say
            "return_dict_in_generate": False, "output_scores": False, "output_logits": False, "stop_strings": None,
            "cache_implementation": None}
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
            if not sample:
                given[name] = None
            elif getattr(self, name) is not None:
                given[name] = getattr(self, name)
        for name in ("repetition_penalty", "length_penalty"):
            if getattr(self, name) is not None:
                given[name] = float(getattr(self, name))
        for name, value in given.items():
            setattr(config, name, value)
        return config


def check_assisted(options: Options) -> None:
    """RequestError where options have no use for an assistant."""
    if options.num_beams > 1:
        raise RequestError("num_beams: an assistant guesses for one text at a time; leave out one of the two.")


@dataclass
class Memory:
    """What a decoder has read: of a text that starts in the same way, only the rest is read."""

    ids: list[int] = field(default_factory=list)
    cache: Any = None
    """Keys and values of these tokens in all layers, as the model's own forward or the decoder keeps them."""

    def shared(self, prompt: Sequence[int], empty: Callable[[], Any]) -> Any:
        """The cache of as much of a prompt as is known, without its last token, which has to be read for what follows.

        `empty` makes one that holds nothing: None where the model keeps anything but all keys and values, for what it
        forgets can't be taken back.
        """
        same = next((i for i, (one, other) in enumerate(zip(self.ids, prompt)) if one != other),
                    min(len(self.ids), len(prompt)))
        same = min(same, len(prompt) - 1)
        if self.cache is None or same == 0:
            self.cache = empty()
        elif same < self.cache.get_seq_length():
            self.cache.crop(same - self.cache.get_seq_length())
        self.ids = []  # unknown, until it is written to the end
        return self.cache

    def keep(self, ids: Sequence[int]) -> None:
        """What the cache holds now: these, as far as they were read."""
        self.ids = [] if self.cache is None else list(ids[: self.cache.get_seq_length()])


@dataclass
class Writer:
    """A model that writes, kept open: prompts in, texts out."""

    name: str
    opened: Opened
    device: str = "cpu"
    assistant: Opened | None = None
    """A smaller model that guesses ahead; this one checks its guesses, several in one step (Leviathan et al. 2023)."""
    decoder: Decoder | None = None
    """The model's forward pass written out, where it is one of those that packed_decoder knows."""

    @classmethod
    def open(cls, name: str, assistant: str | None = None, dtype: str | None = None) -> Writer:
        """Open a folder, a run, a catalogue name or a hub id on the best device, in the numbers that are fastest there.

        RequestError where the model writes no text, or the assistant can't guess for it.
        """
        from llmkit.models import kind_of, open_model, resolve

        folder = resolve(name)
        kind = kind_of(folder)
        if kind not in WRITERS:
            raise RequestError(unwritten(name, kind))
        helper = None if assistant is None else resolve(assistant)
        if helper is not None and kind_of(helper) != kind:
            raise RequestError(f"--assistant {assistant}: is opened as {kind_of(helper)}, and {name} as {kind}; an "
                               "assistant is a smaller model of the same kind.")
        fast, device = numbers(folder)
        writer = cls(name, open_model(folder, dtype=dtype or fast), device)
        writer.pack()
        if helper is not None:
            writer.assistant = open_model(helper, dtype=dtype or fast)
            writer._check_assistant(str(assistant))
        return writer

    def __post_init__(self) -> None:
        if self.opened.kind not in WRITERS:
            raise RequestError(unwritten(self.name, self.opened.kind))
        self.opened.model.to(self.device)  # type: ignore[arg-type]

    def pack(self) -> None:
        """Lay the model's weights out for writing, where packed_decoder knows it: they aren't read or trained again."""
        if not self.reads:
            from llmkit.backbones.kernels.packed_decoder import Decoder

            self.decoder = Decoder.of(self.opened.model)

    @property
    def reads(self) -> bool:
        """Whether it reads prompts in an encoder."""
        return self.opened.kind == "AutoModelForSeq2SeqLM"

    @property
    def chats(self) -> bool:
        """Whether a prompt becomes what the user says in a conversation."""
        return self.opened.tokenizer.chat_template is not None and not self.reads

    def ids(
        self, prompt: str | Sequence[Mapping[str, Any]], *, system: str | None = None, raw: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """A prompt's token ids as the model expects them.

        A text is what the user says where the tokenizer has a chat template, and is gone on with as it stands where it
        has none or `raw` says so. Messages are [{"role": …, "content": …}, …]; a last one of the assistant is gone on
        with. RequestError where there is no template for them, or it refuses them.
        """
        tokenizer, chat = self.opened.tokenizer, self.chats and not raw
        given = {"system": system, "tools": tools, "messages": None if isinstance(prompt, str) else prompt}
        unused = [] if chat else [name for name, value in given.items() if value is not None]
        if unused:
            raise RequestError(f"{unused[0]}: {self.name} takes no {unused[0]} here: "
                               + ("raw text has none." if raw else "its tokenizer has no chat template."))
        if chat:
            talk: list[Mapping[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
            talk += [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            ids = _templated(tokenizer, talk, tools)
        else:
            text = str(prompt)
            ids = list(tokenizer(text)["input_ids"])
            closed = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token))
            if closed and not self.reads:
                ids.pop()  # some tokenizers close every text, and a closed text isn't gone on with
        if not ids:
            starts = [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None]
            if not starts:
                raise RequestError(
                    f"the prompt is empty, and {self.name} has no token to start a text with: give a word.")
            ids = starts[:1]
        return ids

    def room(self, prompt: int, wanted: int) -> tuple[int, str]:
        """How many tokens can be written after a prompt of so many, and a sentence where that is fewer than wanted.

        RequestError where the prompt is longer than the model's context, with by how much.
        """
        limit, virtual = positions(self.opened), self.opened.virtual_tokens
        if limit is None:
            return wanted, ""
        taken = prompt + virtual
        prefix = f" and the adapter's {virtual}" if virtual else ""
        most = limit if self.reads else limit - 1
        if taken > most:
            raise RequestError(f"the prompt's {prompt:,} tokens{prefix} are {taken - most:,} more than the {most:,} "
                               f"that the model's context of {limit:,} takes; shorten the prompt.")
        room = limit - 1 if self.reads else limit - taken
        if room >= wanted:
            return wanted, ""
        where = "" if self.reads else f", and the prompt{' with the adapter' if prefix else ''} takes {taken}"
        return room, f"max_new_tokens is {room}, not {wanted}: the model has {limit} positions{where}."

    def settings(self, options: Options) -> tuple[GenerationConfig, list[int], tuple[str, ...]]:
        """The model's own generation config with options over it, and the tokens and the strings that end a text."""
        own = _defaults(self.opened.model)
        ends = _ends(own, self.opened.tokenizer, options.stop)
        stop = tuple(dict.fromkeys([*options.stop, *_listed(own.stop_strings)]))
        return options.config(own, ends, self._pad(ends)), ends, stop

    def write(
        self, prompts: Sequence[Sequence[int]], options: Options, *, stream: Callable[[int, str], None] | None = None,
        stopped: Callable[[], bool] | None = None, numbers: Sequence[int] | None = None,
        ends: Sequence[Collection[int]] | None = None, memory: Memory | None = None,
    ) -> list[list[Completion]]:
        """Write `options.num_return_sequences` texts for each prompt (its token ids), all together; order is kept.

        stream    gets (prompt, piece) as soon as whole characters are there, of the first text for each prompt; with
                  beams, its whole text at the end
        stopped   is asked after each token; once it is true, what is written so far is the answer
        numbers   of the prompts: with a seed, a text depends on (seed, number, which of the prompt's texts) alone, and
                  not on the batch, up to rounding; 0, 1, … where nothing is said
        ends      tokens that end the texts of each prompt, beside those that the model knows
        memory    of one prompt and one text, what was read before: as in a conversation, where each prompt has the last
                  one in it; beams and assistants read all again

        RequestError where a prompt is longer than the context.
        """
        if not prompts:
            return []
        if self.assistant is not None:
            check_assisted(options)
        import torch

        from llmkit.models import quiet

        model: Any = self.opened.model
        config, known, stop = self.settings(options)
        count, names = options.num_return_sequences, range(len(prompts)) if numbers is None else numbers
        rooms = [self.room(len(ids), options.max_new_tokens)[0] for ids in prompts]
        beams = options.num_beams > 1
        texts = [
            Text(self.opened.tokenizer, stop, {*known, *(ends[i] if ends is not None else ())}, rooms[i],
                  partial(stream, i) if stream is not None and which == 0 and not beams else None)
            for i in range(len(prompts)) for which in range(count)]
        seed = options.seed
        if seed is None:  # the caller's own chance is left alone where none is needed
            seed = int(torch.randint(2**62, ())) if config.do_sample else 0
        seeds = [(seed, number, which) for number in names for which in range(count)]
        with quiet(), torch.inference_mode():
            if beams or self.assistant is not None:
                self._search(prompts, texts, config, seeds, stopped)
            elif _leaves_batches(model):
                self._sample(prompts, texts, config, seeds, options.logprobs, stopped, memory)
            else:
                config.num_return_sequences = 1
                for i, text in enumerate(texts):
                    self._sample([prompts[i // count]], [text], config, [seeds[i]], options.logprobs, stopped)
            if beams or self.assistant is not None:
                for i, text in enumerate(texts):
                    self._score(prompts[i // count], text, options.logprobs)
        made = [text.completion(options.logprobs is not None) for text in texts]
        out = [made[i:i + count] for i in range(0, len(made), count)]
        if beams and stream is not None:
            for i, completions in enumerate(out):
                stream(i, completions[0].text)
        return out

    # ---- ways of writing ----

    def _sample(
        self, prompts: Sequence[Sequence[int]], texts: Sequence[Text], config: GenerationConfig,
        seeds: Sequence[tuple[int, int, int]], top: int | None, stopped: Callable[[], bool] | None,
        memory: Memory | None = None,
    ) -> None:
        """Token by token, the likeliest or one at random; a text that has ended leaves the batch."""
        ids, mask = self._batch(prompts)
        chance = [np.random.default_rng(seed) for seed in seeds] if config.do_sample else None
        config.max_new_tokens = max(text.room for text in texts)
        # an adapter of virtual tokens brings keys and values of its own
        cache = memory.shared(prompts[0], self._empty) if memory and not self.opened.virtual_tokens else None
        forward = None
        if self.decoder is not None:
            from llmkit.backbones.kernels.packed_decoder import PackedReading

            count = len(texts) // len(prompts)
            forward, cache = PackedReading(self.decoder, [one for one in prompts for _ in range(count)], cache), None
        written = self.opened.model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, generation_config=config, past_key_values=cache,
            custom_generate=partial(
                steps, texts=texts, chance=chance, top=top or 0, stopped=stopped, forward=forward))
        if memory is not None:
            memory.keep(written[0].tolist())

    def _search(
        self, prompts: Sequence[Sequence[int]], texts: Sequence[Text], config: GenerationConfig,
        seeds: Sequence[tuple[int, int, int]], stopped: Callable[[], bool] | None,
    ) -> None:
        """By transformers' beam search or with an assistant, a prompt at a time: they draw from one common chance."""
        import torch
        from transformers import StoppingCriteriaList

        model: Any = self.opened.model
        beams = config.num_beams > 1
        count = config.num_return_sequences
        config.num_return_sequences = count if beams else 1
        for at in range(0, len(texts), config.num_return_sequences):
            ids, mask = self._batch([prompts[at // count]])
            start = 1 if self.reads else ids.shape[1]
            some = texts[at:at + config.num_return_sequences]
            config.max_new_tokens = some[0].room
            more: dict[str, Any] = {}
            if beams:
                until = Until(partial(some[0].ends_in, start=start), stopped)
            else:
                assert self.assistant is not None  # whoever calls this asked for one of the two
                until = Until(some[0].ended, stopped)
                more = {"assistant_model": self.assistant.model.to(self.device),  # type: ignore[arg-type]
                        "streamer": Feed(some[0])}
            with torch.random.fork_rng(enabled=config.do_sample):
                if config.do_sample:
                    torch.manual_seed(int(np.random.SeedSequence(seeds[at]).generate_state(1, np.uint64)[0] >> 1))
                out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config,
                                     stopping_criteria=StoppingCriteriaList([until]), **more)
            for text, row in zip(some, out[:, start:].tolist(), strict=True):
                for token in row if beams else ():
                    if not text.reason:
                        text.add(token)
                text.close("stopped" if until.stopped else "length")

    def _score(self, prompt: Sequence[int], text: Text, top: int | None) -> None:
        """Read a text that is written, all at once, for the log probability of each of its tokens."""
        import torch

        if not text.ids:
            return
        model: Any = self.opened.model
        own: Any = _defaults(model)
        ids, mask = self._batch([[*prompt] if self.reads else [*prompt, *text.ids]])
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self.reads:
            start = own.decoder_start_token_id if own.decoder_start_token_id is not None else own.bos_token_id
            given["decoder_input_ids"] = torch.tensor([[start, *text.ids[:-1]]], device=ids.device)
        elif "logits_to_keep" in inspect.signature(base_of(model).forward).parameters:
            given["logits_to_keep"] = len(text.ids) + 1
        logits = model(**given).logits[0].float()  # (length, vocabulary)
        if not self.reads:
            logits = logits[-len(text.ids) - 1:-1]
        text.logprobs, text.likeliest = logprobs_of(logits, torch.tensor(text.ids, device=logits.device), top or 0)

    def _empty(self) -> Any:
        """What the model remembers of nothing, to be filled; None where it can't be cut to what is wanted."""
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        if self.decoder is not None:
            return self.decoder.states()
        config: Any = self.opened.model.config
        cache = DynamicCache(config=config)
        plain = all(type(layer) is DynamicLayer for layer in cache.layers)
        return cache if plain and not config.is_encoder_decoder else None

    def _batch(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask (batch, length); padded on the left of what is gone on with, on the right of what is read."""
        return padded(prompts, self._pad([]), left=not self.reads, device=self.device)

    def _pad(self, ends: Sequence[int]) -> int:
        tokenizer, own = self.opened.tokenizer, _defaults(self.opened.model)
        known = [own.pad_token_id, tokenizer.pad_token_id, *ends, 0]
        return int(next(one for one in known if one is not None))

    def _check_assistant(self, name: str) -> None:
        """RequestError where the assistant has other tokens, so that its guesses can't be checked."""
        assert self.assistant is not None
        ours, theirs = self.opened.tokenizer.get_vocab(), self.assistant.tokenizer.get_vocab()
        if ours != theirs:
            odd = next(iter(sorted(ours.items() ^ theirs.items())))[0]
            raise RequestError(f"--assistant {name}: has other tokens than {self.name} ({len(theirs):,} and "
                               f"{len(ours):,}; {odd!r} is one that differs); an assistant shares the vocabulary.")


INSTEAD = {
    "AutoModelForMaskedLM": "fills masks (`llmkit generate` with a mask in the prompt)",
    "AutoModelForPreTraining": "tells what was done to a text (fine-tune it: `llmkit finetune --task …`)",
    "AutoModelForSequenceClassification": "labels texts (`llmkit classify`, `llmkit predict`)",
    "AutoModelForTokenClassification": "labels words (`llmkit tag`, `llmkit predict`)",
    "AutoModelForQuestionAnswering": "finds answers in a text (`llmkit answer`, `llmkit predict`)",
    "AutoModelForMultipleChoice": "chooses among answers (`llmkit predict`)",
    "AutoModelForNextSentencePrediction": "tells whether sentences follow each other (`llmkit evaluate`)",
    "AutoModel": "turns texts into vectors (`llmkit search`)",
}
"""What models that write nothing are for, by the auto class that they are opened with."""


def unwritten(name: str, kind: str) -> str:
    """Why a model of a kind can't write, and what to use it, or something else, for."""
    return (f"{name} doesn't write any text: it {INSTEAD[kind]}. To write, use a decoder (gpt2, llama) or an "
            "encoder-decoder (t5).")


def numbers(folder: Path) -> tuple[str, str]:
    """The dtype and the device to generate with: on a GPU bf16, on a CPU bf16 where its cores multiply it faster.

    A token reads every weight once, so half the bytes is the gain; a narrow model fits in the cache and has none.
    """
    import torch

    if torch.cuda.is_available():
        return ("bfloat16" if torch.cuda.is_bf16_supported() else "float32"), "cuda"
    if not (folder / "config.json").is_file():
        return "float32", "cpu"
    config = models.config_of(folder)
    wide = config.get_text_config().hidden_size >= 256
    return ("bfloat16" if wide and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"), "cpu"


def positions(opened: Opened) -> int | None:
    """How many tokens a model can tell apart by position; None: any number."""
    from torch import nn

    # Families with relative positions have no such field, XLNet's says -1.
    limit = getattr(opened.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None or limit <= 0:
        return None
    for name, part in opened.model.named_modules():  # RoBERTa and its kin count from behind the padding token's number
        if name.endswith("embeddings.position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx:
            return int(limit) - part.padding_idx - 1
    return int(limit)


def base_of(model: Any) -> Any:
    """The model that an adapter of peft's stands on; the model itself where there is none."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def _leaves_batches(model: Any) -> bool:
    """Whether rows can leave a batch: not so XLNet's, whose memory is a list of tensors with the length first."""
    return bool(base_of(model)._supports_default_dynamic_cache())


def _defaults(model: Any) -> GenerationConfig:
    from transformers import GenerationConfig

    return model.generation_config or GenerationConfig.from_model_config(model.config)


def _listed(value: Any) -> list[Any]:
    """One, several or nothing, as a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _ends(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> list[int]:
    """The tokens that end a text: the model's, else the tokenizer's, and stop strings that are tokens of no text."""
    special = {str(one): number for number, one in tokenizer.added_tokens_decoder.items() if one.special}
    ends = _listed(config.eos_token_id) or _listed(tokenizer.eos_token_id)
    return list(dict.fromkeys([*ends, *(special[one] for one in stop if one in special)]))


def _templated(
    tokenizer: PreTrainedTokenizerBase, talk: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
) -> list[int]:
    from jinja2 import TemplateError

    for i, message in enumerate(talk):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RequestError(f'messages: number {i + 1} must be {{"role": …, "content": …}}, not {message!r:.60}.')
    if not talk:
        raise RequestError("messages: there is none.")
    going_on = talk[-1]["role"] == "assistant"
    try:
        batch: Any = templates.apply(
            tokenizer, [dict(message) for message in talk],
            tools=None if tools is None else [dict(tool) for tool in tools],
            add_generation_prompt=not going_on, continue_final_message=going_on, return_dict=True)
    except (TemplateError, ValueError) as error:
        raise RequestError(f"messages: the chat template refuses them: {' '.join(str(error).split())}") from error
    return list(batch["input_ids"])
