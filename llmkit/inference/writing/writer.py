"""Writing: prompts go in together, texts come out, piece by piece where somebody watches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from llmkit.backbones.kernels import privates
from llmkit.data.encoder import Unknown, Written
from llmkit.inference.writing import beams
from llmkit.inference.writing.completion import Completion
from llmkit.inference.writing.context import base_of, defaults, ends_of, ids_of, listed, positions
from llmkit.inference.writing.memory import PrefixMemory, pairs_of
from llmkit.inference.writing.opening import WRITERS, check_numbers, chosen_numbers, uncompiled, unwritten
from llmkit.inference.writing.options import Options, check_assisted
from llmkit.inference.writing.reading import padded, read_whole, templated
from llmkit.inference.writing.sampling import Choosing, chance_of, others
from llmkit.inference.writing.text import WrittenText
from llmkit.inference.writing.token_loop import steps
from llmkit.inference.writing.turn_ends import learned_ends, learned_start
from llmkit.models.languages import UnreadScript
from llmkit.models.opening import check_ids
from llmkit.system.errors import DeviceFullError, RequestError, device_full
from llmkit.system.plural import many
from llmkit.system.report import log

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from torch import Tensor
    from transformers import GenerationConfig

    from llmkit.backbones.kernels.packed_decoder import Decoder
    from llmkit.inference.constraining.constraint import Constraint
    from llmkit.models import Opened


PLACES = 256
"""A cache of fixed size has a multiple of so many."""


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

        `dtype`: float32, bfloat16, float16; int8: weights of 8 bits, all else in the fastest numbers. RequestError
        where the model writes no text, or the assistant can't guess for it.
        """
        from llmkit.models import kind_of, open_model, resolve

        check_numbers(dtype)
        folder = resolve(name)
        kind = kind_of(folder)
        if kind not in WRITERS:
            raise RequestError(unwritten(name, kind))
        helper = None if assistant is None else resolve(assistant)
        if helper is not None and kind_of(helper) != kind:
            raise RequestError(f"--assistant {assistant}: is opened as {kind_of(helper)}, and {name} as {kind}; an "
                               "assistant is a smaller model of the same kind.")
        chosen, device = chosen_numbers(folder, dtype)
        writer = cls(name, open_model(folder, **chosen), device)
        writer.pack()
        if helper is not None:
            writer.assistant = open_model(helper, **chosen)
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

    @cached_property
    def unknown(self) -> Unknown:
        """What the tokenizer didn't know of all prompts; said once."""
        return Unknown(self.opened.tokenizer)

    @cached_property
    def script(self) -> UnreadScript:
        """Whether the model knows what prompts are written in; said once."""
        return UnreadScript(self.name, self.opened.folder, self.opened.tokenizer)

    @cached_property
    def written(self) -> Written:
        """The control tokens that somebody wrote in a message; said once."""
        return Written(self.opened.tokenizer, plain=True)

    @cached_property
    def learned_ends(self) -> list[int]:
        """What else ends its texts: the ends of a run's answers, where its model doesn't say them."""
        return learned_ends(self.opened)

    @cached_property
    def learned_start(self) -> tuple[int, ...]:
        """What stands before a text that is gone on with, as in the rows of its run."""
        return learned_start(self.opened)

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
            ids = templated(tokenizer, talk, tools)
            self._tell_of_controls(talk)
        else:
            text = str(prompt)
            ids = read_whole(tokenizer, text)
            closed = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token))
            if closed and not self.reads:
                ids.pop()  # some tokenizers close every text, and a closed text isn't gone on with
            if self.learned_start and tuple(ids[: len(self.learned_start)]) != self.learned_start:
                ids = [*self.learned_start, *ids]
        if not ids:
            starts = [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None]
            if not starts:
                raise RequestError(
                    f"the prompt has no token, and {self.name} has none to start a text with: give a word that it "
                    "knows.")
            ids = starts[:1]
        check_ids(self.opened.folder, int(self.opened.model.config.get_text_config().vocab_size), max(ids))
        self.unknown.see(ids, prompt)
        self.unknown.warn(self.name)
        if not self.unknown.said:
            self.script.warn(prompt)
        return ids

    def _tell_of_controls(self, said: Any) -> None:
        """Say, once, that control tokens which somebody wrote in a message are text."""
        if not self.written.counts:
            self.written.see(said)
            if some := list(self.written.counts):
                log.info("%s: control tokens in what is said are read as plain text: %s", self.name,
                         ", ".join(map(repr, some[:5])))

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
        own = defaults(self.opened.model)
        ends = list(dict.fromkeys([*ends_of(own, self.opened.tokenizer, options.stop), *self.learned_ends]))
        stop = tuple(dict.fromkeys([*options.stop, *listed(own.stop_strings)]))
        return options.config(own, ends, self._pad(ends)), ends, stop

    @cached_property
    def bytewise(self) -> LLTokenizer:
        """The tokens as bytes, for texts that must have a form; made once, for it takes up to seconds."""
        from llmkit.inference.constraining.tokens import readable

        return readable(self.opened.tokenizer, ids_of(self.opened))

    def constraint(self, options: Options, ends: Collection[int]) -> Constraint | None:
        """The form that a text must have, to be made anew for each; None: any. RequestError where it can't be held."""
        from llmkit.inference.constraining.constraint import Constraint

        schema = options.json_schema
        return None if schema is None else Constraint(self.bytewise, str(schema), frozenset(ends))

    def rules(self, config: GenerationConfig, prompt: int, room: int) -> Callable[[], Any] | None:
        """What a generation config does to scores beside sampling and a repetition penalty: no n-gram twice, no bad
        words, a least length …, of a text of at most `room` tokens behind a prompt of so many. None: nothing.

        It is made anew for each text: (ids (1, length), scores (1, vocabulary)) -> scores.
        """
        config = copy.copy(config)
        config.max_new_tokens = room
        model = base_of(self.opened.model)
        if not others(privates.processors(model, config, prompt)):
            return None
        return lambda: others(privates.processors(model, config, prompt))

    def write(
        self, prompts: Sequence[Sequence[int]], options: Options, *, stream: Callable[[int, str], None] | None = None,
        stopped: Callable[[], bool] | None = None, numbers: Sequence[int] | None = None,
        ends: Sequence[Collection[int]] | None = None, memory: PrefixMemory | None = None, quotes: bool = False,
        whole_sentences: bool = False, goes_on: Sequence[bool] | None = None,
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
        quotes    what was read may be said again: a penalty on repetition counts what is written only; not for beams
        whole_sentences  `stream` gets nothing behind the last whole sentence of a text that the limit cuts
        goes_on   whether each prompt is gone on with as it stands, so that prompt and text are one text; None: none is

        RequestError where a prompt is longer than the context, steps are to be compiled and can't be, or a GPU's memory
        ends.
        """
        if not prompts:
            return []
        try:
            return self._written(prompts, options, stream, stopped, numbers, ends, memory, quotes, whole_sentences,
                                 goes_on)
        except RuntimeError as error:
            if not device_full(error):
                raise
            count = len(prompts) * max(options.num_return_sequences, options.num_beams)
            raise DeviceFullError(
                f"this device's memory has no room for {many(count, 'text')} of {self.name} at once, behind prompts of "
                f"up to {max(map(len, prompts)):,} tokens. Ask for fewer together (batch_size, num_return_sequences, "
                "num_beams), shorter ones (max_new_tokens), or a smaller model.") from error

    def _written(
        self, prompts: Sequence[Sequence[int]], options: Options, stream: Callable[[int, str], None] | None,
        stopped: Callable[[], bool] | None, numbers: Sequence[int] | None, ends: Sequence[Collection[int]] | None,
        memory: PrefixMemory | None, quotes: bool, whole_sentences: bool, goes_on: Sequence[bool] | None,
    ) -> list[list[Completion]]:
        """What `write` gives."""
        if self.assistant is not None:
            check_assisted(options)
        self._check_compiled(options, memory)
        import torch

        from llmkit.models import quiet
        from llmkit.models.ends import unstopped

        model: Any = self.opened.model
        config, known, stop = self.settings(options)
        count, names = options.num_return_sequences, range(len(prompts)) if numbers is None else numbers
        rooms = [self.room(len(ids), options.max_new_tokens)[0] for ids in prompts]
        searched = options.num_beams > 1
        seed = options.seed
        if seed is None:  # the caller's own chance is left alone where none is needed
            seed = int(torch.randint(2**62, ())) if config.do_sample else 0
        seeds = [(seed, number, which) for number in names for which in range(count)]
        how = Choosing.of(config)
        texts = [
            WrittenText(self.opened.tokenizer, stop, {*known, *(ends[i] if ends is not None else ())}, rooms[i],
                 partial(stream, i) if stream is not None and which == 0 and not searched else None, how=how,
                 chance=chance_of(seeds[i * count + which], torch.device(self.device)) if how.sample else None,
                 top=options.logprobs or 0, quotes=quotes, constraint=self.constraint(options, known),
                 whole_sentences=whole_sentences,
                 after=prompts[i] if goes_on is not None and goes_on[i] and not self.reads else ())
            for i in range(len(prompts)) for which in range(count)]
        with quiet(), unstopped(base_of(model)), torch.inference_mode():
            if searched or self.assistant is not None:
                beams.search(self, prompts, texts, config, seeds, stopped)
            elif privates.leaves_batches(base_of(model)):
                self._write_together(prompts, texts, config, stopped, memory, bool(options.compile))
            else:
                config.num_return_sequences = 1
                for i, text in enumerate(texts):
                    self._write_together([prompts[i // count]], [text], config, stopped)
            if searched or self.assistant is not None:
                for i, text in enumerate(texts):
                    beams.score(self, prompts[i // count], text, options.logprobs)
        made = [text.completion(options.logprobs is not None) for text in texts]
        out = [made[i:i + count] for i in range(0, len(made), count)]
        if searched and stream is not None:
            for i, completions in enumerate(out):
                stream(i, completions[0].text)
        return out

    # ---- ways of writing ----

    def _write_together(
        self, prompts: Sequence[Sequence[int]], texts: Sequence[WrittenText], config: GenerationConfig,
        stopped: Callable[[], bool] | None, memory: PrefixMemory | None = None, compiled: bool = False,
    ) -> None:
        """Token by token, the likeliest or one at random; a text that has ended leaves the batch, if not `compiled`."""
        ids, mask = self.batch(prompts)
        config.max_new_tokens = max(text.room for text in texts)
        if compiled:
            places = config.max_new_tokens + (1 if self.reads else ids.shape[1])
            # longer prompts shouldn't soon take another graph
            config.cache_implementation, config.max_cache_len = "static", -(-places // PLACES) * PLACES
        # an adapter of virtual tokens brings keys and values of its own
        cache = self._empty() if memory is not None and not self.opened.virtual_tokens else None
        if memory is not None and cache is not None:
            memory.recall(prompts[0], cache)
        forward, own_cache = None, cache
        if self.decoder is not None:
            from llmkit.backbones.kernels.packed_decoder import PackedReading

            count = len(texts) // len(prompts)
            copies = [one for one in prompts for _ in range(count)]
            forward, own_cache = PackedReading(self.decoder, copies, cache), None
        written = self.opened.model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, generation_config=config, past_key_values=own_cache,
            custom_generate=partial(steps, texts=texts, stopped=stopped, forward=forward))
        if memory is not None and cache is not None:
            memory.keep(written[0].tolist()[: cache.get_seq_length()], pairs_of(cache))

    def _check_compiled(self, options: Options, memory: PrefixMemory | None) -> None:
        """RequestError where steps are to be compiled and can't be."""
        if not options.compile:
            return
        why = uncompiled(self.opened, self.device)
        if memory is not None:
            why = "a conversation keeps what was read, in a cache that grows"
        if why:
            raise RequestError(f"compile: {why}; leave it out.")

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

    def batch(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask (batch, length); padded on the left of what is gone on with, on the right of what is read."""
        return padded(prompts, self._pad([]), left=not self.reads, device=self.device)

    def _pad(self, ends: Sequence[int]) -> int:
        tokenizer, own = self.opened.tokenizer, defaults(self.opened.model)
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
