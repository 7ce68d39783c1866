"""Options of writing: how the next token is chosen, and for how long."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmkit.inference.constraining.schema import checked
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from transformers import GenerationConfig

COLDEST = 1e-6
"""The least temperature that fp32 logits are divided by; below it the likeliest token is drawn in any case."""


@dataclass(frozen=True)
class Options:
    """How the next token is chosen, and for how long.

    Where `do_sample` isn't given, tokens are sampled if one of temperature, top_p, top_k, min_p and typical_p is, if
    several texts are asked for without beams, or if the model's generation config says so; else the likeliest token is
    taken each time.
    """

    max_new_tokens: int = 300
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
    json_schema: str | Mapping[str, Any] | None = None
    """A JSON schema, as JSON or as an object: the text is JSON of this form, if it comes to its end."""
    compile: bool | None = None
    """On a GPU, write by compiled steps over a cache of fixed size, each a CUDA graph. Compiling takes a while first:
    where nothing is said, only the steps of a large file of prompts are."""

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
        if self.json_schema is not None:
            if self.num_beams > 1:
                raise RequestError("json_schema: goes with no beams; leave num_beams out.")
            object.__setattr__(self, "json_schema", checked(self.json_schema))
        if self.compile and self.num_beams > 1:
            raise RequestError("compile: beams move from row to row in a cache, and that of compiled steps stays as it "
                               "is; leave out compile or num_beams.")
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
        if given.get("temperature") is not None:
            given["temperature"] = max(given["temperature"], COLDEST)
        for name in ("repetition_penalty", "length_penalty"):
            if getattr(self, name) is not None:
                given[name] = float(getattr(self, name))
        for name, value in given.items():
            setattr(config, name, value)
        return config


def check_assisted(options: Options) -> None:
    """RequestError where options have no use for an assistant."""
    if options.compile:
        raise RequestError("compile: an assistant's wrong guesses are taken back, which a cache of fixed size can't; "
                           "leave out one of the two.")
    if options.json_schema is not None:
        raise RequestError("json_schema: an assistant's guesses aren't held to a form; leave out one of the two.")
    if options.num_beams > 1:
        raise RequestError("num_beams: an assistant guesses for one text at a time; leave out one of the two.")
