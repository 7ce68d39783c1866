"""ONNX: graphs that onnxruntime computes without torch, for rows and lengths of any size.

torch's older exporter (`dynamo=False`) writes them: for the fourteen families of llmkit its graphs are right, and it
takes a second where the newer one takes ten to twenty. Names of files, inputs and outputs are those of optimum, which
other programs know too. Of a decoder, keys and values of what was read before go in and come out.
Nothing is left behind unless its output is torch's, for lengths that it wasn't traced with.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.exporting import example, pooling
from llmkit.exporting.card import python
from llmkit.exporting.formats import safetensors
from llmkit.exporting.origin import Provenance
from llmkit.exporting.untraceable import untraceable
from llmkit.models import Opened
from llmkit.models.chatting import templates
from llmkit.models.families import file_for
from llmkit.models.pooling import Pooling
from llmkit.recipe import registry
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor, nn

LIBRARY = "onnx"
DTYPES = ("float32",)
OPSET = 18
TOLERANCE = 1e-4
"""Of the largest output, or of 1 where that is smaller: 32 bits round logits of 30 by more than those of 1."""
OUTPUTS = ("logits", "start_logits", "end_logits", "prediction_logits", "seq_relationship_logits", "sop_logits",
           "last_hidden_state")
"""Of what a model gives, the parts that are kept."""
LONG = 40
"""Tokens of the longest row that is compared."""

Axes = dict[int, str]


@dataclass(frozen=True)
class OnnxPart:
    """One file: a network whose inputs and outputs have names."""

    file: str
    network: nn.Module
    inputs: dict[str, Axes]
    """By name, which axes may have any size, and what these are called."""
    outputs: dict[str, Axes]
    sample: Callable[[int, int, int], tuple[Tensor, ...]]
    """Inputs of so many rows, of uneven lengths up to so many tokens, after so many that were read before."""
    past: bool = False


def check(config: Mapping[str, Any]) -> None:
    """Raise RequestError where the libraries aren't there, or a model of this kind can't be written."""
    for library in ("onnx", "onnxruntime"):
        if find_spec(library) is None:
            raise RequestError(f"--format onnx needs {library}: pip install 'llmkit-train[onnx]'")
    if reason := untraceable(config):
        raise RequestError(f"--format onnx: {reason}; --format safetensors keeps all of it.")


def write(opened: Opened, origin: Provenance, folder: Path, dtype: str | None) -> dict[str, Any]:
    """Fill a folder, compare what onnxruntime says with what torch says, and return how much they differ at most.

    RequestError where that is more than TOLERANCE, or the tokenizer can't be had as a file.
    """
    import torch

    opened.model.set_attn_implementation("eager")  # plain products: what every opset has
    opened.model.config.save_pretrained(folder)
    if opened.model.can_generate():
        opened.model.generation_config.save_pretrained(folder)
    safetensors.copy(origin.source, folder, safetensors.BESIDE)
    save_tokenizer(opened, folder)
    difference, what = 0.0, f"--format onnx: this {opened.model.config.model_type}"
    with torch.no_grad():
        for part in parts_of(opened, origin.source):
            try:
                trace(part, folder / part.file)
            except (RuntimeError, TypeError, ValueError) as error:
                said = " ".join(str(error).split())[:300]
                raise RequestError(f"{what} can't be written: torch can't trace it: {said}") from error
            difference = max(difference, compared(part, folder / part.file, longest(opened)))
    if not difference <= TOLERANCE:
        raise RequestError(f"{what} can't be written: what onnxruntime says differs from torch's output by "
                           f"{difference:.2g} of the largest, more than {TOLERANCE:g}.")
    files = sorted(path.name for path in folder.glob("*.onnx"))
    return {"dtype": "float32", "opset": OPSET, "files": files, "difference": difference}


def save_tokenizer(opened: Opened, folder: Path) -> None:
    """Write the tokenizer, and see that its file alone cuts text as the tokenizer itself does."""
    from tokenizers import Tokenizer

    opened.tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise RequestError(f"{opened.folder}: --format onnx needs a tokenizer.json, which can't be had of its "
                           "tokenizer.")
    alone = Tokenizer.from_file(str(path))
    alone.no_padding()  # transformers pads and cuts as each call says, whatever the file does
    alone.no_truncation()
    alone.save(str(path))
    for text in (example.CONTEXT, f"{example.QUESTION}  {example.CONTEXT}\n"):
        if alone.encode(text).ids != opened.tokenizer(text)["input_ids"]:
            raise RequestError(f"{opened.folder}: its tokenizer.json alone doesn't cut text as transformers does with "
                               "it; --format safetensors keeps all of it.")


# ---- the graphs ---------------------------------------------------------------------------------------------------


def parts_of(opened: Opened, source: Path) -> list[OnnxPart]:
    """The files of a model: one; of an encoder-decoder that writes, two."""
    if opened.kind == "AutoModelForSeq2SeqLM":
        return [encoder(opened), decoder(opened)]
    if opened.kind == "AutoModelForCausalLM" and remembers(opened):
        return [writer(opened)]
    return [reader(opened, pooling.of(opened, source))]


def reader(opened: Opened, way: Pooling | None) -> OnnxPart:
    """A model that reads a whole text at once, with whatever head it has."""
    import torch

    model, several = opened.model, opened.kind == "AutoModelForMultipleChoice"
    names = inputs_of(opened)
    options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}

    def sample(rows: int, length: int, past: int = 0) -> tuple[Tensor, ...]:
        texts = read(opened, rows * 2 if several else rows, length)
        return tuple(texts[name].view(rows, 2, length) if several else texts[name] for name in names)

    def given(*inputs: Tensor) -> dict[str, Any]:
        said = {name: one for name, one in model(**dict(zip(names, inputs, strict=True)), **options).items()
                if name in OUTPUTS}
        return {"logits": way.vectors(said["logits"], inputs[1])} if way and "logits" in said else said

    found = given(*sample(2, 7))
    outputs: dict[str, Axes] = {name: {0: "batch_size", **({1: "sequence_length"} if one.shape[1:2] == (7,) else {})}
                                for name, one in found.items()}

    class ReaderGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            states = given(*inputs)
            extra = [way.vectors(states["last_hidden_state"], inputs[1])] if way and "logits" not in states else []
            return (*states.values(), *extra)

    if way and "logits" not in found:
        outputs["sentence_embedding"] = {0: "batch_size"}
    axes: Axes = {0: "batch_size", **({1: "num_choices", 2: "sequence_length"} if several else {1: "sequence_length"})}
    return OnnxPart("model.onnx", ReaderGraph(), dict.fromkeys(names, axes), outputs, sample)


def inputs_of(opened: Opened) -> list[str]:
    """What a model that reads is given: what it takes and its tokenizer makes."""
    takes = inspect.signature(opened.model.forward).parameters
    return [name for name in ("input_ids", "attention_mask", "token_type_ids")
            if name in takes and (name in opened.tokenizer.model_input_names or name == "attention_mask")]


def writer(opened: Opened) -> OnnxPart:
    """A decoder that is given the keys and values of what it has read, and gives them back with the new ones."""
    import torch
    from transformers import DynamicCache

    model = opened.model
    shapes = [layer.keys.shape for layer in cache_of(opened).layers]
    positions = "position_ids" in inspect.signature(model.forward).parameters
    names = ["input_ids", "attention_mask", *(["position_ids"] if positions else [])]
    kept = [f"{layer}.{what}" for layer in range(len(shapes)) for what in ("key", "value")]

    def sample(rows: int, length: int, past: int = 0) -> tuple[Tensor, ...]:
        texts = read(opened, rows, past + length, left=True)
        mask = texts["attention_mask"]
        places = (mask.cumsum(1) - 1).clamp(min=0)
        before = [torch.zeros(rows, shape[1], 0, shape[3]) for shape in shapes for _ in range(2)]
        given = [texts["input_ids"], mask, *([places] if positions else [])]
        if past:
            _, *before = network(*(one[:, :past] for one in given), *before)
        return (given[0][:, past:], mask, *(one[:, past:] for one in given[2:]), *before)

    class WriterGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            given, past = inputs[: len(names)], inputs[len(names) :]
            cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
            said = model(**dict(zip(names, given, strict=True)), past_key_values=cache, use_cache=True)
            return (said.logits, *(one for layer in said.past_key_values.layers for one in (layer.keys, layer.values)))

    network = WriterGraph()
    new: Axes = {0: "batch_size", 1: "sequence_length"}
    inputs = {**dict.fromkeys(names, new), "attention_mask": {0: "batch_size", 1: "total_sequence_length"},
              **{f"past_key_values.{name}": {0: "batch_size", 2: "past_sequence_length"} for name in kept}}
    outputs = {"logits": new, **{f"present.{name}": {0: "batch_size", 2: "total_sequence_length"} for name in kept}}
    return OnnxPart("model.onnx", network, inputs, outputs, sample, past=True)


def encoder(opened: Opened) -> OnnxPart:
    """The half of an encoder-decoder that reads."""
    import torch

    class EncoderGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder: Any = opened.model.get_encoder()

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            states: Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            return states

    def sample(rows: int, length: int, past: int = 0) -> tuple[Tensor, ...]:
        texts = read(opened, rows, length)
        return texts["input_ids"], texts["attention_mask"]

    axes: Axes = {0: "batch_size", 1: "encoder_sequence_length"}
    return OnnxPart("encoder_model.onnx", EncoderGraph(), {"input_ids": axes, "attention_mask": axes},
                {"last_hidden_state": axes}, sample)


def decoder(opened: Opened) -> OnnxPart:
    """The half that writes: all that was written so far goes in each time."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    reads: Any = opened.model.get_encoder()

    class DecoderGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model: Any = opened.model

        def forward(self, ids: Tensor, states: Tensor, mask: Tensor) -> Tensor:
            logits: Tensor = self.model(
                decoder_input_ids=ids, encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask,
                use_cache=False).logits
            return logits

    def sample(rows: int, length: int, past: int = 0) -> tuple[Tensor, ...]:
        texts = read(opened, rows, length)
        states = reads(input_ids=texts["input_ids"], attention_mask=texts["attention_mask"]).last_hidden_state
        return texts["input_ids"][:, : length // 2 + 1], states, texts["attention_mask"]

    new: Axes = {0: "batch_size", 1: "decoder_sequence_length"}
    before: Axes = {0: "batch_size", 1: "encoder_sequence_length"}
    return OnnxPart("decoder_model.onnx", DecoderGraph(),
                {"input_ids": new, "encoder_hidden_states": before, "encoder_attention_mask": before},
                {"logits": new}, sample)


def remembers(opened: Opened) -> bool:
    """Whether a decoder keeps keys and values of all that it read, in each of its layers."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache_of(opened).layers)


def cache_of(opened: Opened) -> Any:
    """What a decoder keeps of a text of three tokens."""
    return opened.model(read(opened, 1, 3)["input_ids"], use_cache=True).past_key_values


def read(opened: Opened, rows: int, length: int, left: bool = False) -> dict[str, Tensor]:
    """Texts of ordinary words, each row shorter than the one above; padding is right, or left."""
    import torch

    config, tokenizer = opened.model.config, opened.tokenizer
    known = {one for one in tokenizer.get_vocab().values() if one < config.get_text_config().vocab_size}
    words = sorted(known - set(tokenizer.all_special_ids))
    generator = torch.Generator().manual_seed(1000 * rows + length)
    ids = torch.tensor(words)[torch.randint(len(words), (rows, length), generator=generator)]
    lengths = torch.tensor([max(1, length - 3 * row) for row in range(rows)])
    places = torch.arange(length)
    mask = (places >= length - lengths[:, None] if left else places < lengths[:, None]).long()
    if config.is_encoder_decoder and tokenizer.eos_token_id is not None:  # whose classifiers look for it
        ids[torch.arange(rows), lengths - 1] = tokenizer.eos_token_id
    ids[mask == 0] = tokenizer.pad_token_id or 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": (places >= length // 2).long().expand(rows, -1)}


def longest(opened: Opened) -> int:
    """Tokens of the longest row that is compared: LONG, or what the model has positions for."""
    config = opened.model.config
    name = file_for(config.model_type)
    if name is not None:
        return min(LONG, registry.find("backbones", name).position_limit(config) or LONG)
    return min(LONG, config.to_dict().get("max_position_embeddings") or LONG)


def trace(part: OnnxPart, path: Path) -> None:
    """Write the graph of a network."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: what a fixed size would do is compared below
        torch.onnx.export(
            part.network.eval(), part.sample(2, 7, 3), str(path), input_names=list(part.inputs),
            output_names=list(part.outputs), dynamic_axes={**part.inputs, **part.outputs}, opset_version=OPSET,
            dynamo=False)


def compared(part: OnnxPart, path: Path, most: int) -> float:
    """How far onnxruntime's output is from torch's at most, over rows and lengths it wasn't traced with:
    as a share of the largest output, or as it is where that is below 1.

    Positions of padding don't count: nobody reads what is said there.
    """
    import numpy as np
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = {one.name for one in session.get_inputs()}
    largest = 0.0
    for rows, length, past in ((1, 1, 0), (1, 5, 0), (3, 11, 0), (4, most, 0), (1, 1, 9), (3, 4, most - 4)):
        if past and not part.past:
            continue
        inputs = part.sample(rows, length, past)
        given = dict(zip(part.inputs, inputs, strict=True))
        try:
            told = session.run(list(part.outputs), {name: one.numpy() for name, one in given.items() if name in taken})
        except (ort.Fail, ort.InvalidArgument, ort.RuntimeException, ort.NotImplemented) as error:
            said = " ".join(str(error).split())[:300]
            raise RequestError(f"--format onnx: {path.name} can't be written: onnxruntime doesn't take {rows} rows of "
                               f"{length} tokens: {said}") from error
        expected = part.network(*inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        mask = given.get("attention_mask")
        for axes, ours, theirs in zip(part.outputs.values(), told, expected, strict=True):
            off = np.abs(ours - theirs.numpy())
            if mask is not None and "sequence_length" in axes.get(1, "") and off.shape[:2] == (rows, length):
                off = off[mask[:, -length:].numpy() > 0]
            share = float(off.max()) / max(1.0, float(theirs.abs().max()))
            largest = max(largest, share) if np.isfinite(share) else float("inf")
    return largest


# ---- what the card shows ------------------------------------------------------------------------------------------


def how(opened: Opened, origin: Provenance, folder: Path, at: str) -> str:
    """How onnxruntime opens the folder, without torch or transformers; `at` is its hub id, or "."."""
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if opened.kind == "AutoModelForSeq2SeqLM":
        shown = lines_that_read_and_write(opened, origin)
        what = ("`encoder_model.onnx` reads, `decoder_model.onnx` writes: it is given all that was written so far "
                "each time, for it keeps no keys and values.")
    elif opened.kind == "AutoModelForCausalLM":
        kept = remembers(opened)
        shown = lines_that_write(opened, origin) if kept else lines_that_write_anew(opened, origin)
        what = ("`model.onnx` takes and gives keys and values (`past_key_values`, `present`), so that each token is "
                "read once." if kept else
                "`model.onnx` keeps no keys and values: it is given the whole text each time.")
    else:
        shown = lines_that_tell(opened, origin, folder)
        what = f"`model.onnx` is the model with its head ({opened.kind})."
    fetched = "in this folder" if at == "." else f"in what `hf download {at} --local-dir .` brings"
    return "\n".join([
        f"{what} Opset {OPSET}, 32 bits, rows and lengths of any size"
        + (f" up to {about['max_position_embeddings']:,} positions" if about.get("max_position_embeddings") else "")
        + f". With `pip install onnxruntime tokenizers`, {fetched}:", "",
        python(*(["import json", ""] if any("json." in line for line in shown) else []), "import numpy",
               "import onnxruntime", "from tokenizers import Tokenizer", "",
               'tokenizer = Tokenizer.from_file("tokenizer.json")', *shown)])


OPEN = 'model = onnxruntime.InferenceSession("model.onnx")'


def prompt_for(opened: Opened, origin: Provenance) -> str:
    """The text that a writer goes on from: of a chat model, a question as its template writes it."""
    if opened.tokenizer.chat_template:
        return str(templates.apply(opened.tokenizer, example.MESSAGES, tokenize=False, add_generation_prompt=True))
    return example.text_for(opened, origin)


def encoded(opened: Opened, text: str) -> str:
    """Code for the ids of a prompt; what a chat template writes has its own first token already."""
    bare = ", add_special_tokens=False" if opened.tokenizer.chat_template else ""
    return f"tokenizer.encode({example.quoted(text)}{bare})"


def ending(opened: Opened) -> list[str]:
    """Code that leaves the loop where the text has come to its end."""
    end = opened.model.generation_config.eos_token_id
    ends = [end] if isinstance(end, int) else list(end or [])
    return [f"    if ids[-1] in {ends}:", "        break"] if ends else []


def lines_that_write(opened: Opened, origin: Provenance) -> list[str]:
    """The likeliest token each time, what was read before kept as keys and values."""
    shape = cache_of(opened).layers[0].keys.shape
    positions = "position_ids" in inspect.signature(opened.model.forward).parameters
    return [
        OPEN, f"ids = {encoded(opened, prompt_for(opened, origin))}.ids",
        "kept = [one.name for one in model.get_inputs() if one.name.startswith(\"past\")]",
        f'past = dict.fromkeys(kept, numpy.zeros((1, {shape[1]}, 0, {shape[3]}), "float32"))',
        "read = 0",
        "for _ in range(40):",
        '    new = {"input_ids": [ids[read:]], "attention_mask": [[1] * len(ids)]'
        + (', "position_ids": [list(range(read, len(ids)))]}' if positions else "}"),
        "    logits, *states = model.run(None, {name: numpy.array(new[name]) for name in new} | past)",
        "    past, read = dict(zip(kept, states)), len(ids)",
        "    ids.append(int(logits[0, -1].argmax()))", *ending(opened),
        "print(tokenizer.decode(ids, skip_special_tokens=False))"]


def lines_that_write_anew(opened: Opened, origin: Provenance) -> list[str]:
    """The likeliest token each time, the whole text read for each."""
    return [
        OPEN, f"ids = {encoded(opened, prompt_for(opened, origin))}.ids",
        "for _ in range(40):",
        '    given = {"input_ids": numpy.array([ids]), "attention_mask": numpy.array([[1] * len(ids)])}',
        "    (logits,) = model.run(None, given)",
        "    ids.append(int(logits[0, -1].argmax()))", *ending(opened),
        "print(tokenizer.decode(ids, skip_special_tokens=False))"]


def lines_that_read_and_write(opened: Opened, origin: Provenance) -> list[str]:
    """An encoder-decoder: the text is read once, then the likeliest token each time."""
    start = opened.model.generation_config.decoder_start_token_id
    return [
        'encoder = onnxruntime.InferenceSession("encoder_model.onnx")',
        'decoder = onnxruntime.InferenceSession("decoder_model.onnx")',
        f"text = {encoded(opened, prompt_for(opened, origin))}",
        "mask = numpy.array([text.attention_mask])",
        '(states,) = encoder.run(None, {"input_ids": numpy.array([text.ids]), "attention_mask": mask})',
        f"ids = [{start}]",
        "for _ in range(40):",
        '    given = {"input_ids": numpy.array([ids]), "encoder_hidden_states": states, '
        '"encoder_attention_mask": mask}',
        "    ids.append(int(decoder.run(None, given)[0][0, -1].argmax()))", *ending(opened),
        "print(tokenizer.decode(ids, skip_special_tokens=False))"]


def lines_that_tell(opened: Opened, origin: Provenance, folder: Path) -> list[str]:
    """What a model that reads says, by what its head is for."""
    kind, config = example.read_as(opened, folder), opened.model.config
    fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    wrap = "[[{}]]" if kind == "AutoModelForMultipleChoice" else "[{}]"
    given = ", ".join(f'"{name}": ' + wrap.format(f"one.{fields[name]} for one in texts") for name in inputs_of(opened))

    def run(outputs: str, *texts: str, batch: str = "") -> list[str]:
        encoded = batch or f"[tokenizer.encode({example.quoted(*texts)})]"
        return [OPEN, f"texts = {encoded}", f"inputs = {{{given}}}",
                f"{outputs} = model.run(None, {{name: numpy.array(inputs[name]) for name in inputs}})"]

    labels = 'labels = json.load(open("config.json"))["id2label"]'
    text = example.text_for(opened, origin)
    if kind == "AutoModelForMaskedLM":
        return [*run("(logits,)", text), f"masked = texts[0].ids.index({opened.tokenizer.mask_token_id})",
                "best = logits[0, masked].argsort()[::-1][:5]", "print([tokenizer.decode([i]) for i in best])"]
    if kind == "AutoModelForSequenceClassification":
        if config.problem_type == "regression":
            return [*run("(logits,)", text), "print(logits[0, 0])"]
        if config.problem_type == "multi_label_classification":
            sure = f"1 / (1 + numpy.exp(-logits[0])) > {origin.learned.get('threshold', 0.5)}"
            return [labels, *run("(logits,)", text),
                    f"print([labels[str(i)] for i, is_so in enumerate({sure}) if is_so])"]
        return [labels, *run("(logits,)", text), "print(labels[str(logits[0].argmax())])"]
    if example.finds_replaced(opened):
        return [*run("(logits,)", text), "print(list(zip(texts[0].tokens, 1 / (1 + numpy.exp(-logits.flatten())))))"]
    if kind == "AutoModelForTokenClassification":
        return [labels, *run("(logits,)", text),
                "print([(token, labels[str(i)]) for token, i in zip(texts[0].tokens, logits[0].argmax(-1))])"]
    if kind == "AutoModelForQuestionAnswering":
        return [*run("start, end", *example.question_for(opened)),
                "print(tokenizer.decode(texts[0].ids[start[0].argmax() : end[0].argmax() + 1]))"]
    if kind == "AutoModelForMultipleChoice":
        pairs = json.dumps([[example.QUESTION, choice] for choice in example.CHOICES])
        pad = opened.tokenizer.pad_token_id
        return [f"tokenizer.enable_padding(pad_id={pad}, pad_token={example.quoted(str(opened.tokenizer.pad_token))})",
                *run("(logits,)", batch=f"tokenizer.encode_batch({pairs})"), "print(logits[0].argmax())"]
    if example.scores_pairs(opened):
        words = kind == "AutoModelForPreTraining"
        return [*run("words, relation" if words else "(relation,)", *example.PAIR),
                "print(numpy.exp(relation[0]) / numpy.exp(relation[0]).sum())"]
    if kind == "AutoModel" and pooling.read(folder) is not None:
        pad = opened.tokenizer.pad_token_id
        return [f"tokenizer.enable_padding(pad_id={pad}, pad_token={example.quoted(str(opened.tokenizer.pad_token))})",
                *run("states, vectors", batch=f"tokenizer.encode_batch([{example.quoted(*example.PAIR)}])"),
                "print(vectors)"]
    return [*run("first, *_", text), "print(first.shape)"]
