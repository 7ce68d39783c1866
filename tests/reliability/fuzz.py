"""Mutated recipes and data files, each through the command line: it ends in order, or with one line that says why.

python -m reliability.fuzz --recipes 2000 --files 2000 --seed 1

What is wrong is a traceback, an unforeseen error (1), a second line of error, a signal, a file that a payload touched,
more than 10 seconds of CPU, or an error that took more than 1 GB beside the libraries. Many mutants run in one process,
a fork of this one, which has the libraries. A run ends after its first step.
"""

from __future__ import annotations

import argparse
import collections
import copy
import gzip
import io
import json
import math
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

SECONDS, BYTES = 10.0, 1 << 30
"""What a mutant may take: CPU time, and memory above the libraries'."""
WALL = 180.0
"""Seconds on the clock after which a mutant is given up: the machine may be busy."""
TURNS = 150
"""Mutants that a process runs before another one takes over."""
ENDS = (0, 2, 3, 4, 5, 6)
"""Exit statuses that say what is wrong."""
WHO, DID, WHAT = (["the cat", "a dog", "my friend"], ["saw", "chased", "found"], ["the moon", "a red ball"])
MARKER = "touched-by-a-payload"

GPT2 = {"family": "gpt2", "size": "tiny", "config": {"n_embd": 32, "n_head": 2, "n_positions": 64}}
BERT = {"family": "bert", "size": "tiny", "config": {
    "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}}
T5 = {"family": "t5", "size": "tiny", "config": {"d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 64}}
STEP = {"figures": False,
        "max_steps": 1, "global_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1, "precision": "fp32"}

Tree = dict[str, Any]


@dataclass
class Ended:
    """How a mutant ended."""

    number: int
    status: int
    said: str
    """The last line on stderr."""
    seconds: float
    """CPU time."""
    grown: int
    """Bytes above what the process had before."""
    wrong: str = ""
    """What is wrong with that; empty where nothing is."""


def main() -> int:
    """Run the mutants, print figures, keep what went wrong in a folder; 1 where something did."""
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("--recipes", type=int, default=2000, help="mutated recipes")
    asked.add_argument("--files", type=int, default=2000, help="mutated data files")
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--only", type=int, help="one mutant, with all that it says")
    asked.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="where mutants that fail are kept")
    given = asked.parse_args()
    prepare()
    bad = 0
    for kind, count in (("recipes", given.recipes), ("files", given.files)):
        numbers = range(count) if given.only is None else [given.only] if count else []
        bad += report(kind, given.seed, list(run(kind, given.seed, numbers, given.keep)))
    return 1 if bad else 0


def prepare() -> None:
    """Import the libraries once; nothing here may ask a network."""
    import importlib

    from reliability.commands import IMPORTED, VARIABLES

    os.environ.update({name: value for name, value in VARIABLES.items() if name != "PYTHONPATH"})
    for name in IMPORTED:
        importlib.import_module(name)


def report(kind: str, seed: int, ended: Sequence[Ended]) -> int:
    """Print what became of the mutants; return how many went wrong."""
    if not ended:
        return 0
    statuses = collections.Counter(one.status for one in ended)
    shown = ", ".join(f"{count} ended with {status}" for status, count in sorted(statuses.items()))
    slowest, largest = max(one.seconds for one in ended), max(one.grown for one in ended)
    print(f"{kind}: {len(ended)} mutants of seed {seed}: {shown}; at most {slowest:.1f} s of CPU and "
          f"{largest / 2**20:.0f} MB", flush=True)
    bad = [one for one in ended if one.wrong]
    for one in bad:
        print(f"  {kind} --only {one.number}: {one.wrong}: {one.said[:300]}", flush=True)
    return len(bad)


# ---- running ------------------------------------------------------------------------------------------------------


def run(kind: str, seed: int, numbers: Sequence[int], keep: Path | None = None) -> Iterator[Ended]:
    """Run mutants in processes of TURNS each; one that a process dies of has its signal as status."""
    left = collections.deque(numbers)
    folder = Path(tempfile.mkdtemp(prefix="llmkit-fuzz-"))
    try:
        while left:
            for one in _process(kind, seed, list(left)[:TURNS], folder):
                left.popleft()
                if one.wrong and keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    place = keep / f"{kind}-{seed}-{one.number}"
                    shutil.rmtree(place, ignore_errors=True)
                    write(kind, seed, one.number, place)
                yield one
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _process(kind: str, seed: int, numbers: Sequence[int], folder: Path) -> Iterator[Ended]:
    """What a forked process says of each mutant, up to the one that it dies of."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.close(reading)
            _work(kind, seed, numbers, folder, writing)
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status)
    os.close(writing)
    done, buffer = 0, b""
    while done < len(numbers):
        ready, _, _ = select.select([reading], [], [], WALL)
        piece = os.read(reading, 1 << 16) if ready else b""
        if not piece:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _, ended = os.waitpid(pid, 0)
            status = os.waitstatus_to_exitcode(ended)
            why = f"no answer within {WALL:.0f} s" if not ready else f"the process ended with {status}"
            os.close(reading)
            yield Ended(numbers[done], status, why, SECONDS if status == -signal.SIGXCPU else 0.0, 0, why)
            return
        *whole, buffer = (buffer + piece).split(b"\n")
        for line in whole:
            done += 1
            yield Ended(**json.loads(line))
    os.close(reading)
    os.waitpid(pid, 0)


def _work(kind: str, seed: int, numbers: Sequence[int], folder: Path, writing: int) -> None:
    """Run mutants one after the other, in this process."""

    def first_step(length: Any, state: Any) -> bool:
        return bool(state.step >= 1)

    from llmkit.training.schedule import Length

    Length.done = first_step  # type: ignore[method-assign]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _hold_memory()
    for number in numbers:
        place = folder / str(number)
        os.environ["LLMKIT_CACHE"] = str(place / "cache")
        words = write(kind, seed, number, place)
        ended = _ended(number, words, place, told=len(numbers) == 1)
        shutil.rmtree(place, ignore_errors=True)
        os.write(writing, json.dumps(asdict(ended)).encode() + b"\n")


def _hold_memory() -> None:
    """Let nothing take the machine's memory: four times what a mutant may have is an error in it."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 4 * BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _ended(number: int, words: Sequence[str], place: Path, told: bool) -> Ended:
    """Run a command in this process, in a folder."""
    from llmkit.cli import main as llmkit
    from llmkit.system import report as reports

    before = _used()
    soft = math.ceil(time.process_time() + 3 * SECONDS)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    began, err, out = time.process_time(), io.StringIO(), io.StringIO()
    os.chdir(place)
    reports.log.handlers.clear()
    wrong = ""
    try:
        with redirect_stderr(err), redirect_stdout(out):
            status = llmkit([*words, "--debug"] if told else list(words))
    except BaseException as error:
        status, wrong = 70, f"{type(error).__name__} reached the caller"
        traceback.print_exc(file=err)
    os.chdir("/")
    said = err.getvalue()
    if told:
        print(said, file=sys.stderr)
    lines = said.splitlines()
    last, seconds = lines[-1] if lines else "", time.process_time() - began
    ended = Ended(number, status, last, seconds, _used("VmHWM") - before, wrong)
    errors = sum(line.startswith("llmkit: error:") for line in lines)
    for bad, what in (
            (status not in ENDS, f"ended with {status}"), ("Traceback" in said and not told, "a traceback"),
            (status != 0 and errors != 1, f"{errors} lines of error"), (status == 0 and errors, "an error, and 0"),
            (len(ended.said) > 2000, f"a line of {len(ended.said):,} characters"),
            (any(place.rglob(MARKER)), "a payload ran"), (ended.seconds > SECONDS, f"{ended.seconds:.1f} s of CPU"),
            (ended.grown > BYTES and status != 0, f"{ended.grown / 2**20:.0f} MB")):
        if bad:
            ended.wrong = ended.wrong or what
    return ended


def _used(name: str = "VmRSS") -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


# ---- mutants ------------------------------------------------------------------------------------------------------


def write(kind: str, seed: int, number: int, place: Path) -> list[str]:
    """Write a mutant and what belongs to it into a folder; return the words of the command."""
    place.mkdir(parents=True)
    rng = random.Random(f"{kind} {seed} {number}")
    files = data_files()
    if kind == "recipes":
        (place / "recipe.yaml").write_bytes(mutated_recipe(rng))
        for name, content in files.items():
            (place / name).write_bytes(content)
    else:
        name = rng.choice(sorted(files))
        (place / name).write_bytes(mutated_file(rng, name, files[name]))
        tree = recipe_for(name)
        if rng.random() < 0.3:
            tree["data"]["on_bad_row"] = "skip"
        (place / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return ["pretrain", "recipe.yaml", "--output-dir", "run"]


def stories(count: int, seed: int = 0) -> list[str]:
    """Documents of one to six short sentences."""
    rng = random.Random(seed)
    return [" ".join(f"{rng.choice(WHO)} {rng.choice(DID)} {rng.choice(WHAT)} ." for _ in range(rng.randint(1, 6)))
            for _ in range(count)]


def data_files() -> dict[str, bytes]:
    """Good files of every format, by name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = stories(24)
    rows = [{"text": text, "label": ("yes", "no", "maybe")[i % 3]} for i, text in enumerate(texts)]
    asked = [{"prompt": f"what did {text.split(' .')[0]} do ?", "response": text} for text in texts]
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), table)
    questions = [{"context": text, "qas": [{"id": f"q{i}", "question": "who ?", "answers": [
        {"text": " ".join(text.split()[:2]), "answer_start": 0}]}]} for i, text in enumerate(texts)]
    tagged = "\n\n".join("\n".join(f"{word} {'B-X' if word in ('cat', 'dog') else 'O'}" for word in text.split())
                         for text in texts)
    cells = [f'"{row["text"]}",{row["label"]}' for row in rows]

    def lines(some: Sequence[Mapping[str, Any]]) -> bytes:
        return "".join(json.dumps(row) + "\n" for row in some).encode()

    return {
        "text.txt": ("\n".join(texts) + "\n").encode(), "text.txt.gz": gzip.compress("\n".join(texts).encode()),
        "rows.jsonl": lines(rows), "rows.json": json.dumps(rows, indent=1).encode(),
        "rows.csv": ("text,label\n" + "\n".join(cells)).encode(),
        "rows.tsv": ("text\tlabel\n" + "\n".join(f"{row['text']}\t{row['label']}" for row in rows)).encode(),
        "rows.parquet": table.getvalue(), "asked.jsonl": lines(asked),
        "talk.jsonl": lines([{"messages": [{"role": "user", "content": row["prompt"]},
                                           {"role": "assistant", "content": row["response"]}]} for row in asked]),
        "squad.json": json.dumps({"version": "1", "data": [{"title": "t", "paragraphs": questions}]}).encode(),
        "tags.conll": tagged.encode(),
        "pairs.jsonl": lines([{"sentence1": one, "sentence2": other, "score": i / 24}
                              for i, (one, other) in enumerate(zip(texts, stories(24, 1), strict=True))])}


def recipe_for(name: str) -> Tree:
    """A recipe that learns from one of the files."""
    kinds: dict[str, Tree] = {
        "text": {"backbone": GPT2, "objective": {"name": "causal_lm"}},
        "rows": {"backbone": BERT, "task": {"name": "classification"}},
        "asked": {"backbone": GPT2, "task": {"name": "instruction"}},
        "talk": {"backbone": GPT2, "task": {"name": "instruction"}},
        "squad": {"backbone": BERT, "task": {"name": "question_answering"}},
        "tags": {"backbone": BERT, "task": {"name": "tagging"}},
        "pairs": {"backbone": BERT, "task": {"name": "similarity"}}}
    tree: Tree = {"name": "mutant", "seed": 1, "tokenizer": {"train": {"vocab_size": 300}},
                  "data": {"train": name, "validation": 0.3, "max_length": 32}, "training": dict(STEP)}
    return copy.deepcopy({**tree, **kinds[name.partition(".")[0]]})


def recipes() -> list[Tree]:
    """Recipes of many kinds, all of which train."""
    made = [recipe_for(name) for name in ("text.txt", "rows.jsonl", "asked.jsonl", "squad.json", "tags.conll",
                                          "pairs.jsonl")]
    for backbone, objective in (
            (BERT, "masked_lm"), (T5, "span_corruption"), (BERT, "next_sentence"), (BERT, "replaced_token"),
            (BERT, "contrastive"), (GPT2, "prefix_lm"), (T5, "denoising")):
        tree = recipe_for("text.txt")
        made.append({**tree, "backbone": copy.deepcopy(backbone), "objective": {"name": objective}})
    for method in ("lora", "prefix", "prompt", "p_tuning", "ia3", "layers", "feed_forward", "bias", "vera", "adalora",
                   "peft"):
        tree = recipe_for("rows.csv" if len(made) % 2 else "text.txt")
        made.append({**tree, "tuning": {"method": method}})
    shots = recipe_for("rows.tsv")
    made.append({**shots, "prompting": {"name": "prefix", "instruction": "say: "}})
    sources = recipe_for("text.txt")
    sources["data"] |= {"train": [{"source": "text.txt", "weight": 1.0}, {"source": "text.txt.gz", "weight": 2.0}],
                        "document": "line", "packing": "blocks"}
    sources["training"] |= {"lr_scheduler_type": "cosine", "warmup_steps": 1, "weight_decay": 0.1, "eval_steps": 1,
                            "early_stopping_patience": 2, "save_steps": 1, "metric_for_best_model": "loss"}
    return [*made, sources]


NASTY: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 0.5, -0.5, 7, 100, 2**31, 2**53, 2**63, 10**9, 10**12, 10**30, -(10**12), 1e308,
    1e-320, math.nan, math.inf, -math.inf, "", " ", "no", "1e5", "012", "12:30", "a" * 5000, "a\0b", "\ud7ff\u2028\x85",
    "é", "../../x", "nothing/*.txt", "[", "**", "text.txt", "rows.jsonl", "hub:a/b", "builtin:x", "auto", "none",
    "null",
    "full", "gpt2", "bert", "masked_lm", "lora", [], {}, [[]], [None], ["a", 1], {"a": 1}, {"name": "full"}, [1, 2,
    3],
    "os.system", "torch.nn.Linear", "${HOME}", "{{ 7 * 7 }}", "$(touch touched-by-a-payload)", "; touch x", "~",
    "~root",
    {"source": "text.txt"}, [{"source": "text.txt", "weight": -1}], "<|endoftext|>", "%s", "{0}", "<script>"]
TEXT: list[str] = [
    f'!!python/object/apply:os.system ["touch {MARKER}"]', f"!!python/object/apply:pathlib.Path.touch [{MARKER}]",
    "!!python/name:os.system", "!!binary aGk=", "!!set {a, b}", "&a [*a]", "&a x\nb: *a", "<<: {a: 1}", "? [a]\n: b",
    "\t", "\0", "\x85", "\ufeff", "---\n", "...\n", "%YAML 9.9\n", "{" * 200, "[" * 200, "- " * 60, "|\n", ">\n",
    "'", '"',
    "#", ": ", "::", "\r", "9" * 5000, "0x1F", "0o17", "1_000", "+.inf", "2001-01-01", "=", "@", "`", "%", "!", "*"]


def mutated_recipe(rng: random.Random) -> bytes:
    """A recipe with one to three mutations of its tree, and sometimes of its text."""
    tree = copy.deepcopy(rng.choice(recipes()))
    how = rng.random()
    for _ in range(rng.choice((1, 1, 1, 2, 3)) if how < 0.85 else 0):
        rng.choice((put, put, nudge, nudge, option, option, option, option, drop, misspell, swap, graft))(rng, tree)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")
    if how >= 0.75:
        for _ in range(rng.randint(1, 3)):
            text = torn(rng, text, [one.encode() for one in TEXT])
    return text


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a tree but of its root."""
    for key, below in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*path, key)
        yield from places(below, (*path, key))


def at(tree: Tree, path: Sequence[Any]) -> Any:
    """What stands at a path."""
    node: Any = tree
    for key in path:
        node = node[key]
    return node


def put(rng: random.Random, tree: Tree) -> None:
    """Another value somewhere."""
    *above, key = rng.choice(list(places(tree)) or [("name",)])
    at(tree, above)[key] = copy.deepcopy(rng.choice(NASTY))


def nudge(rng: random.Random, tree: Tree) -> None:
    """A number that is another one of its kind, a word that is one of its neighbours."""
    numbers = [path for path in places(tree) if type(at(tree, path)) in (int, float)]
    if numbers:
        *above, key = rng.choice(numbers)
        node = at(tree, above)
        value: Any = rng.choice((node[key] * 2, node[key] + 1, node[key] * 1000, node[key] // 3, -node[key]))
        node[key] = value


def option(rng: random.Random, tree: Tree) -> None:
    """A known field, of a section or of the plug-in that a block names, with a value of its kind or with any."""
    blocks = [block for block in tree if block != "name" and isinstance(tree[block], dict)]
    if not blocks:
        return
    block = rng.choice(blocks)
    name = tree[block].get("name", tree[block].get("method", ""))
    known = known_fields()
    fields = known.get((block, str(name))) or known.get((block, "")) or {"name": {}}
    field = rng.choice(sorted(fields))
    if field == "config" and isinstance(tree[block].get("config", {}), dict):
        tree[block].setdefault("config", {})[rng.choice(CONFIG)] = copy.deepcopy(
            rng.choice(NASTY) if rng.random() < 0.5 else rng.choice((1, 2, 3, 8, 64, 0.1, True)))
    else:
        tree[block][field] = copy.deepcopy(
            rng.choice(NASTY) if rng.random() < 0.4 else plausible(rng, fields[field]))


def plausible(rng: random.Random, kind: Mapping[str, Any]) -> Any:
    """A value that a field of such a JSON Schema may have."""
    kind = rng.choice(kind["anyOf"]) if "anyOf" in kind else kind
    if "enum" in kind or "const" in kind:
        return rng.choice(kind.get("enum", [kind.get("const")]))
    some = {"boolean": (True, False), "integer": (0, 1, 2, 3, 8, 64, 1000), "number": (0, 0.1, 0.5, 1, 2.5, 1e-8),
            "string": ("a", "auto", "linear", "mean", "text", "{text}", "loss", "accuracy", "tensorboard"),
            "array": ([], ["loss"], ["a", "b"], [0.5, 0.5], [1, 2]), "object": ({}, {"a": 1}, {"text": "label"}),
            "null": (None,)}
    return rng.choice(some.get(str(kind.get("type")), (None,)))


def known_fields(found: dict[tuple[str, str], dict[str, Any]] = {}) -> dict[tuple[str, str], dict[str, Any]]:  # noqa: B006
    """The fields of every section, and of every plug-in by its block and name, each with its JSON Schema."""
    if found:
        return found
    from llmkit import recipe

    whole = recipe.schema()
    for section in ("Data", "Training", "Backbone"):
        found[section.lower(), ""] = whole["$defs"][section]["properties"]
    found["tokenizer", ""] = {"train": {}, "pretrained": {"type": "string"}}
    for block, (_, key) in recipe.BLOCKS.items():
        for choice in whole["properties"][block]["anyOf"]:
            name = choice.get("properties", {}).get(key, {}).get("const")
            if name is not None:  # a module of one's own has no name here
                found[block, name] = choice["properties"]
    return found


CONFIG = (
    "num_hidden_layers", "n_layer", "num_layers", "vocab_size", "type_vocab_size", "hidden_size", "n_embd", "d_model",
    "num_attention_heads", "n_head", "num_heads", "intermediate_size", "n_inner", "hidden_act", "activation_function",
    "hidden_dropout_prob", "resid_pdrop", "layer_norm_eps", "layer_norm_epsilon", "initializer_range", "use_cache",
    "attn_implementation", "_attn_implementation", "dtype", "torch_dtype", "tie_word_embeddings", "pad_token_id",
    "is_decoder", "add_cross_attention", "num_labels", "problem_type", "auto_map", "quantization_config", "id2label",
    "architectures", "feed_forward_proj", "relative_attention_num_buckets", "max_position_embeddings", "n_positions",
    "is_encoder_decoder", "cross_attention_hidden_size", "output_attentions", "output_hidden_states", "return_dict",
    "chunk_size_feed_forward", "name_or_path", "trust_remote_code", "use_return_dict", "label2id", "model_type")
"""Fields of transformers' configs, and some that are none."""


def drop(rng: random.Random, tree: Tree) -> None:
    """Something is missing."""
    *above, key = rng.choice(list(places(tree)) or [("name",)])
    with suppress(KeyError, IndexError):
        del at(tree, above)[key]


def misspell(rng: random.Random, tree: Tree) -> None:
    """A key with a letter too few, or another one."""
    *above, key = rng.choice(list(places(tree)) or [("name",)])
    node = at(tree, above)
    if isinstance(node, dict):
        word = str(key)
        spot = rng.randrange(len(word)) if word else 0
        node[word[:spot] + rng.choice(("", "x", ".", " ", "_")) + word[spot + 1 :]] = node.pop(key)


def swap(rng: random.Random, tree: Tree) -> None:
    """Two values change places."""
    paths = list(places(tree))
    one, other = rng.choice(paths), rng.choice(paths)
    if one[: len(other)] == other or other[: len(one)] == one:
        return
    a, b = at(tree, one), at(tree, other)
    at(tree, one[:-1])[one[-1]], at(tree, other[:-1])[other[-1]] = b, a


def graft(rng: random.Random, tree: Tree) -> None:
    """A block of another recipe."""
    other = rng.choice(recipes())
    block = rng.choice(sorted(other))
    tree[block] = copy.deepcopy(other[block])


def torn(rng: random.Random, text: bytes, pieces: Sequence[bytes]) -> bytes:
    """Bytes with a bit flipped, a span cut, doubled or moved, a piece put in, or their end missing."""
    if not text:
        return rng.choice(pieces)
    spot = rng.randrange(len(text))
    span = text[spot : spot + rng.choice((1, 2, 8, 40, 200))]
    lines = text.split(b"\n")
    where = rng.randrange(len(lines))
    ways: list[Callable[[], bytes]] = [
        lambda: text[:spot] + bytes([text[spot] ^ 1 << rng.randrange(8)]) + text[spot + 1 :],
        lambda: text[:spot] + rng.randbytes(len(span)) + text[spot + len(span) :],
        lambda: text[:spot] + text[spot + len(span) :],
        lambda: text[:spot] + span + text[spot:],
        lambda: text[:spot] + rng.choice(pieces) + text[spot:],
        lambda: text[:spot] + rng.choice(pieces) + text[spot:],
        lambda: text[:spot],
        lambda: b"\n".join([*lines[:where], lines[where], *lines[where:]]),
        lambda: b"\n".join([*lines[:where], *lines[where + 1 :]]),
        lambda: b"\n".join(rng.sample(lines, len(lines)))]
    return rng.choice(ways)()


BITS: list[bytes] = [
    b"\0", b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n\n\n", b"\x0b", b"\x0c",
    b"\x1a", b"\xc2\x85",
    b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\\ud800", b"\\u0000", b'"', b"'", b",", b"\t", b"{",
    b"}", b"[",
    b"]", b"[" * 5000, b'{"a":' * 3000, b"NaN", b"1e999", b"-" * 300, b"9" * 5000, b"null", b"true", b'""',
    b"<|endoftext|>",
    b"a" * 300_000, b"word " * 20_000, "語".encode() * 3000, b"<extra_id_0>", b"[MASK]", b"</s>", b"{{ 1 }}",
    b"=cmd|' /C'!A0",
    b'{"text": "a", "text": "b"}\n', b'{"text": null}\n', b'{"text": 5, "label": {}}\n', b"[]\n",
    b"\x1f\x8b\x08\0", b"PAR1",
    b"text,label,more\n", b'"text', b"O\n", b"word\n", b"-DOCSTART- O\n\n"]
VALUES: list[Any] = [
    None, True, 0, -1, 7, 0.5, 1e308, math.nan, math.inf, 10**30, "", " ", "a", "a" * 100_000, "\0", "\ud800",
    "é語", [], {}, [[]],
    ["a"], {"a": 1}, [None], {"text": "a", "answer_start": 10**9}, {"role": "user", "content": "a"}, [{"role": "x"}]]


def mutated_file(rng: random.Random, name: str, content: bytes) -> bytes:
    """A data file with mutations of its values, or of its bytes; packed files also inside."""
    packed = name.endswith(".gz") and rng.random() < 0.6
    text = gzip.decompress(content) if packed else content
    if ".json" in name and rng.random() < 0.5:
        rows = [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else json.loads(text)
        for _ in range(rng.randint(1, 3)):
            *above, key = rng.choice(list(places(rows)))
            at(rows, above)[key] = copy.deepcopy(rng.choice(VALUES))
        lines = [json.dumps(row, ensure_ascii=rng.random() < 0.8) for row in rows] if name.endswith(".jsonl") else [
            json.dumps(rows)]
        text = "\n".join(lines).encode("utf-8", "surrogatepass")
    else:
        for _ in range(rng.choice((1, 1, 2, 3, 8))):
            text = torn(rng, text, BITS)
    if not packed and rng.random() < 0.05:
        with suppress(UnicodeError):
            text = text.decode().encode(rng.choice(("utf-16", "utf-32", "latin-1", "utf-8-sig", "cp500")))
    return gzip.compress(text) if packed else text


if __name__ == "__main__":
    sys.exit(main())
