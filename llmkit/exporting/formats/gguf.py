"""GGUF: one file with weights, vocabulary and chat template, for llama.cpp and what is built on it.

The layout is that of llama.cpp's convert_hf_to_gguf.py, written by its own `gguf` library. Before it is done, the file
is opened again by transformers' reader and has to say what the model says with weights rounded as the file's are. What
llama.cpp would read in another way than transformers does (an unknown cut of text into words, say) is refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit import models
from llmkit.data.tokenizer_files import rows_for
from llmkit.exporting import example
from llmkit.exporting.card import python
from llmkit.exporting.formats import safetensors
from llmkit.exporting.origin import Provenance
from llmkit.exporting.untraceable import untraceable
from llmkit.models import Opened
from llmkit.models.ends import ends_of
from llmkit.system.errors import RequestError
from llmkit.system.terminal import shell_word

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("llmkit")

LIBRARY = "gguf"
DTYPES = ("float32", "bfloat16", "float16", "q8_0")
NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "q8_0": "Q8_0"}
CLASSES = {"LlamaForCausalLM": "llama", "Qwen3ForCausalLM": "qwen3", "GPT2LMHeadModel": "gpt2"}
"""What can be written, and what llama.cpp calls it."""
ACTIVATIONS = {"llama": "silu", "qwen3": "silu", "gpt2": "gelu_new"}
TOLERANCE = 1e-4

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    _CONTRACTIONS + r"\p{N}" + _REST: "qwen2",
    _CONTRACTIONS + r"\p{N}{1,3}" + _REST: "llama-bpe",
}
"""Regular expressions by which text is cut before its bytes are merged, and llama.cpp's names of them."""


def check(config: Mapping[str, Any]) -> None:
    """Raise RequestError where a model is none that can be written, or has a part that llama.cpp computes otherwise."""
    (saved,) = config.get("architectures") or [""]
    if saved not in CLASSES:
        others = "safetensors takes this one" if untraceable(config) else "onnx and safetensors take the others"
        raise RequestError(f"--format gguf: a {saved or config.get('model_type')} can't be written; "
                           f"{', '.join(CLASSES)} can. --format {others}.")
    family = CLASSES[saved]
    rope = (config.get("rope_parameters") or config.get("rope_scaling") or {}).get("rope_type", "default")
    act = config.get("hidden_act") or config.get("activation_function") or ACTIVATIONS[family]
    for odd, what in (
        (act != ACTIVATIONS[family], f"its activation is {act}, llama.cpp's {ACTIVATIONS[family]}"),
        (rope != "default", f"its rotary positions are scaled ({rope})"),
        (config.get("use_sliding_window"), "some of its layers see a window only"),
        (config.get("scale_attn_by_inverse_layer_idx") or not config.get("scale_attn_weights", True),
         "its attention is scaled in a way of its own"),
    ):
        if odd:
            raise RequestError(f"--format gguf: this {saved} can't be written: {what}.")


def write(opened: Opened, origin: Provenance, folder: Path, dtype: str | None) -> dict[str, Any]:
    """Fill a folder with the file, and with config and tokenizer for transformers, which reads the file too.

    Returns {"dtype", "files", "difference"}. RequestError where the tokenizer is none that llama.cpp has, or the file
    says something else than the model.
    """
    import gguf

    config: Any = opened.model.config
    family = CLASSES[type(opened.model).__name__]
    dtype = dtype or safetensors.saved_dtype(origin.source)
    path = folder / f"model-{NAMES[dtype]}.gguf"
    vocabulary = vocabulary_of(opened)  # refused before anything is written
    writer = gguf.GGUFWriter(path, family)
    writer.add_type("model")
    writer.add_name(origin.model)
    if origin.licence:
        writer.add_license(origin.licence)
    describe(writer, family, config, dtype)
    add_vocabulary(writer, vocabulary, opened)
    rounded = {}
    for name, ours, values, kind in tensors_of(opened, family, dtype):
        data = gguf.quants.quantize(values, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        rounded[ours] = gguf.quants.dequantize(data, kind) if kind != gguf.GGMLQuantizationType.F32 else values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    opened.model.config.save_pretrained(folder)
    opened.model.generation_config.save_pretrained(folder)
    opened.tokenizer.save_pretrained(folder)
    return {"dtype": dtype, "files": [path.name], "difference": compared(opened, path, family, rounded)}


# ---- what the file says of the model ------------------------------------------------------------------------------


def describe(writer: Any, family: str, config: Any, dtype: str) -> None:
    """Write the sizes by which llama.cpp builds the network."""
    import gguf

    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(getattr(gguf.LlamaFileType, "ALL_F32" if dtype == "float32" else f"MOSTLY_{NAMES[dtype]}"))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if family == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)


def tensors_of(
    opened: Opened, family: str, dtype: str,
) -> Iterator[tuple[str, str, NDArray[Any], Any]]:
    """Each weight: its name in the file, its name in the model, its values as the file has them, and its type there.

    Vectors and learned positions stay in 32 bits, and with q8_0 what can't be cut into blocks of 32, in 16.
    """
    import gguf
    import numpy as np

    config: Any = opened.model.config
    kinds, kind = gguf.GGMLQuantizationType, getattr(gguf.GGMLQuantizationType, NAMES[dtype])
    names = gguf.get_tensor_name_map(next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == family),
                                     config.num_hidden_layers)
    for ours, weight in opened.model.state_dict().items():
        if ours == "lm_head.weight" and config.tie_word_embeddings:
            continue  # it is the embeddings
        name = names.get_name(ours, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise RequestError(f"--format gguf: the weight {ours} has no place in a {family}.")
        values = np.ascontiguousarray(turned(ours, weight.float().numpy(), family, config))
        to = kind if values.ndim > 1 and not name.startswith("position_embd") else kinds.F32
        if to == kinds.Q8_0 and values.shape[-1] % 32:
            to = kinds.F16
        if to == kinds.F16 and np.abs(values).max() > np.finfo(np.float16).max:
            raise RequestError(f"--dtype {dtype}: {ours} has a weight that 16 bits can't hold; take bfloat16.")
        yield name, ours, values, to


def turned(name: str, values: NDArray[Any], family: str, config: Any, back: bool = False) -> NDArray[Any]:
    """A weight as llama.cpp has it, or `back`: GPT-2's products transposed, Llama's rotary pairs side by side."""
    part, _, kind = name.rpartition(".")
    if family == "gpt2" and kind == "weight" and part.endswith(("c_attn", "c_proj", "c_fc")):
        return values.T
    if family == "llama" and part.endswith(("q_proj", "k_proj")):
        heads = config.num_attention_heads if part.endswith("q_proj") else config.num_key_value_heads
        half = len(values) // heads // 2
        pairs = values.reshape(heads, *((half, 2) if back else (2, half)), *values.shape[1:])
        return pairs.swapaxes(1, 2).reshape(values.shape)
    return values


def compared(opened: Opened, path: Path, family: str, rounded: Mapping[str, NDArray[Any]]) -> float:
    """How far what transformers reads from the file is from the model with the same rounding, at most.

    As a share of the largest logit, or as it is where that is below 1. RequestError where it is more than TOLERANCE.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = opened.model
    weights = {name: torch.from_numpy(turned(name, values, family, model.config, back=True).copy())
               for name, values in rounded.items()}
    model.load_state_dict(weights, strict=False)
    with models.quiet(), redirect_stderr(StringIO()):  # a bar that transformers has no switch for
        again: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, config=model.config, dtype=torch.float32, local_files_only=True)
    words = min(rows_for(opened.tokenizer), model.config.vocab_size)
    ids = torch.randint(words, (2, min(24, model.config.max_position_embeddings)),
                        generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = model(ids).logits, again.eval()(ids).logits
    difference = float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1))
    if not difference <= TOLERANCE:
        raise RequestError(f"--format gguf: the file says something else than the model, by {difference:.2g} of its "
                           f"largest logit, more than {TOLERANCE:g}.")
    return difference


# ---- the vocabulary -----------------------------------------------------------------------------------------------


def vocabulary_of(opened: Opened) -> dict[str, Any]:
    """A tokenizer as llama.cpp has it: {"model", "pre", "tokens", "types", "merges" or "scores", …}.

    RequestError where llama.cpp has none that cuts text in the same way.
    """
    from gguf import TokenType

    said: dict[str, Any] = json.loads(opened.tokenizer.backend_tokenizer.to_str())
    model, size = said["model"], opened.model.config.vocab_size
    if model["type"] != "BPE":
        raise refused(f"its pieces are of the kind {model['type']}")
    special = {one["id"]: one for one in said["added_tokens"]}
    words = {number: word for word, number in model["vocab"].items()}
    words |= {i: one["content"] for i, one in special.items()}
    tokens = [words.get(i, f"[PAD{i}]") for i in range(size)]
    types = [TokenType.UNUSED if i not in words else TokenType.NORMAL if i not in special else
             TokenType.CONTROL if special[i]["special"] else TokenType.USER_DEFINED for i in range(size)]
    merges = [tuple(one.split(" ", 1)) if isinstance(one, str) else tuple(one) for one in model["merges"]]
    if not model["byte_fallback"]:
        return {"model": "gpt2", "pre": cut_of(said), "tokens": tokens, "types": types,
                "merges": [" ".join(pair) for pair in merges]}
    for i, word in enumerate(tokens):
        if i not in special and len(word) == 6 and word.startswith("<0x"):
            types[i] = TokenType.BYTE
    if (unknown := opened.tokenizer.unk_token_id) is not None:
        types[unknown] = TokenType.UNKNOWN
    normal = {word for word, kind in zip(tokens, types, strict=True) if kind == TokenType.NORMAL}
    return {"model": "llama", "pre": "default", "tokens": tokens, "types": types,
            "scores": scores_of(tokens, normal, merges), "space": prefixed(said)}


def cut_of(said: Mapping[str, Any]) -> str:
    """llama.cpp's name for how text is cut into words before its bytes are merged."""
    parts = (said["pre_tokenizer"] or {}).get("pretokenizers", [said["pre_tokenizer"]])
    *first, last = [part or {} for part in parts]
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        raise refused("it doesn't work on bytes, or puts a space before every text")
    name = None
    if not first and last["use_regex"]:
        name = "gpt-2"
    elif len(first) == 1 and first[0]["type"] == "Digits" and first[0]["individual_digits"] and last["use_regex"]:
        name = "smollm"
    elif len(first) == 1 and first[0]["type"] == "Split" and first[0]["behavior"] == "Isolated":
        name = SPLITS.get(first[0]["pattern"].get("Regex", ""))
    if name is None:
        raise refused("llama.cpp knows no cut into words like its own")
    normalizer = (said["normalizer"] or {}).get("type")
    if normalizer not in (None, "NFC"):  # llama.cpp leaves text as it is; nearly all text is in NFC already
        raise refused(f"it changes text before it cuts it ({normalizer})")
    if said["model"]["ignore_merges"] and name != "llama-bpe":
        raise refused("it takes whole words before it merges")
    return name


def prefixed(said: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text, where spaces are written ▁; RequestError where more is done to it."""
    before = said["normalizer"] or {}
    steps = before.get("normalizers", [before] if before else [])
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    first = [{"type": "Prepend", "prepend": "▁"}]
    if said["pre_tokenizer"] is None and steps in ([space], [*first, space]):
        return len(steps) == 2
    cut = said["pre_tokenizer"] or {}
    where = {"first": True, "never": False}.get(str(cut.get("prepend_scheme")))
    if not steps and where is not None and not cut["split"]:
        return where
    raise refused("it changes text before it cuts it in a way that llama.cpp doesn't")


def scores_of(tokens: list[str], normal: set[str], merges: list[tuple[str, ...]]) -> list[float]:
    """How early each token is made, as SentencePiece scores it: -0, -1, … in the order of the merges.

    RequestError where merges go by more than the token that they make, as SentencePiece's do.
    """
    order = {word: -float(rank) for rank, word in enumerate(dict.fromkeys("".join(pair) for pair in merges))}
    ways = {(word[:i], word[i:]) for word in normal for i in range(1, len(word))
            if word[:i] in normal and word[i:] in normal}
    ranks = [order["".join(pair)] for pair in merges]
    if ways != set(merges) or ranks != sorted(ranks, reverse=True):
        raise refused("its merges aren't those that SentencePiece would make of its pieces")
    return [order.get(word, 0.0) for word in tokens]


def refused(why: str) -> RequestError:
    """The error for a tokenizer that llama.cpp doesn't have."""
    return RequestError(f"--format gguf: the model's tokenizer can't be written: {why}. A byte-level BPE can be, as "
                        "`tokenizer: {train: {kind: bpe}}` makes it.")


def add_vocabulary(writer: Any, vocabulary: Mapping[str, Any], opened: Opened) -> None:
    """Write the tokenizer, its special tokens, what it puts around a text, and the chat template."""
    tokenizer: Any = opened.tokenizer
    writer.add_tokenizer_model(vocabulary["model"])
    writer.add_tokenizer_pre(vocabulary["pre"])
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_types(vocabulary["types"])
    if "merges" in vocabulary:
        writer.add_token_merges(vocabulary["merges"])
    else:
        writer.add_token_scores(vocabulary["scores"])
        writer.add_add_space_prefix(vocabulary["space"])
    for number, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id), (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id), (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if number is not None:
            add(number)
    add_ends(writer, opened)
    around, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    for first in range(len(around)):
        if around[first : first + len(bare)] == bare:
            before, after = around[:first], around[first + len(bare) :]
            break
    if before not in ([], [tokenizer.bos_token_id]) or after not in ([], [tokenizer.eos_token_id]):
        raise refused("it puts tokens around a text that are neither its first nor its last")
    writer.add_add_bos_token(bool(before))
    writer.add_add_eos_token(bool(after))
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def add_ends(writer: Any, opened: Opened) -> None:
    """Write the other tokens at which llama.cpp ends a text, a turn's end among them; there is room for two."""
    tokenizer: Any = opened.tokenizer
    config: Any = opened.model.generation_config
    others = [end for end in ends_of(config.eos_token_id) if end != tokenizer.eos_token_id]
    for end, add in zip(others, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        add(end)
    if others[2:]:
        log.warning("--format gguf: a file names three tokens that end a text; %s would end one too and can't be named",
                    ", ".join(map(str, tokenizer.convert_ids_to_tokens(others[2:]))))


# ---- what the card shows ------------------------------------------------------------------------------------------


def how(opened: Opened, origin: Provenance, folder: Path, at: str) -> str:
    """How llama.cpp and transformers open the file; `at` is its hub id, or "."."""
    (path,) = folder.glob("*.gguf")
    fetched = "" if at == "." else f" (`hf download {at} --local-dir .` brings it)"
    text = example.quoted(example.text_for(opened, origin))
    chat = opened.tokenizer.chat_template
    asked = example.MESSAGES[0]["content"] if chat else example.text_for(opened, origin)
    said = (f'model.create_chat_completion({json.dumps(example.MESSAGES)}, max_tokens=40)["choices"][0]["message"]'
            '["content"]' if chat else f'model({text}, max_tokens=40)["choices"][0]["text"]')
    return "\n".join([
        f"`{path.name}` is the whole model{fetched}. With llama.cpp:", "", "```",
        f"llama-cli -m {shell_word(path.name)} -n 40 -p {shell_word(asked)}", "```", "",
        "With llama-cpp-python:", "", python("from llama_cpp import Llama", "", f'model = Llama("{path.name}")',
                                             f"print({said})"), "",
        "With transformers, `gguf` and nothing else:", "", python(
            "from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer", "",
            f'tokenizer, config = AutoTokenizer.from_pretrained("{at}"), AutoConfig.from_pretrained("{at}")',
            f'model = AutoModelForCausalLM.from_pretrained("{at}", gguf_file="{path.name}", config=config)',
            f'inputs = tokenizer({text}, return_tensors="pt")',
            "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))")])
