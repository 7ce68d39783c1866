"""Every family x objective or task x tuning method: trains, freezes, saves, resumes and reloads the same.

Cells are found by listing the folders. Some cover every pair (family and learning, family and method, learning and
method): `make test` runs some of these, `LLMKIT_MATRIX=pairs make test` all, and `make matrix` every cell, and a few
in parts on two processes.
"""

import json
import multiprocessing
import os
import shutil
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES, OBJECTIVE, SMALL, STILL, WORDS, write_rows
from promises import TRAINS, blank
from safetensors.torch import load_file

import llmkit
from llmkit import models, recipe
from llmkit.recipe import registry
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit
from llmkit.training.spread.launch import free_port

SOURCES = {
    "classification": "labelled", "instruction": "asked", "tagging": "tagged", "question_answering": "questions",
    "summarization": "summarized", "translation": "parallel", "similarity": "pairs", "multiple_choice": "choices",
    "preference": "preferred"}
"""Which of the tests' files a task learns from; any other from its own example. Objectives learn from text."""

UNSTEADY = {
    "next_sentence": "half of the pairs are right by chance; six steps show nothing",
    "sentence_order": "as next_sentence",
    "masked_lm_next_sentence": "as next_sentence",
    "replaced_token": "the discriminator's loss rises while its generator gets better",
    "adversarial": "the discriminator's loss rises while its generator gets better, and the other way round",
    "contrastive": "a model of one step embeds texts as well as one of six",
    "similarity": "as contrastive",
    "multiple_choice": "a model of one step finds no answer in six, if little of it trains",
}
"""Objectives whose validation loss need not be less after six steps."""

OPTIONS: dict[str, dict[str, Any]] = {
    "adversarial": {"warmup": 2, "discriminator_warmup": 1, "sample_length": 8},
}
"""What else an objective or task is told, so that six steps show it."""


RATE = dict.fromkeys(("bias", "head", "layer_norm"), 2e-2)
"""Methods that train too little for six steps at the usual 3e-3 to show; and what even so isn't seen.

Who does it, the label, is at the start of a text, and the last position of a GPT-2 of one step knows little of that.
"""
UNSEEN = {("gpt2", "classification", method) for method in RATE}
QUICK = ("bert", "classification")
"""Where that rate oversteps, and the usual one shows."""


def why_not(family: str, learning: str, method: str) -> str | None:
    """The reason why a cell can't work, from what family and learning are; None where it can."""
    kind = FAMILIES[family]
    head = learned(learning).head_for(kind)
    if method == "prefix" and kind.shape == "permuted":
        return "its attention takes no keys and values from outside"
    if method == "prefix" and kind.attention == "eager":
        return "its attention doesn't go through transformers' attention interface"
    if method == "layers" and kind.shares:
        return "its layers share their weights"
    if method == "bias" and not has_biases(family):
        return "it has no biases"
    if method == "head" and head == "AutoModel":
        return "it has no head"
    if method == "head" and head in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM") and tied(family, head):
        return "its head is tied to its embeddings"
    return None


def learned(name: str) -> Any:
    """An objective or a task, by its name."""
    return registry.find("objectives" if name in registry.names("objectives") else "tasks", name)()


@cache
def has_biases(family: str) -> bool:
    """Whether a family's models have biases, whatever their heads have."""
    return any(name.endswith(".bias") for name, _ in blank(family, "AutoModel")[0].named_parameters())


@cache
def tied(family: str, head: str) -> bool:
    """Whether the table of the input embeddings makes a model's logits, with no weight of the head's own."""
    model, _ = blank(family, head)
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight and not any(
        name.startswith(FAMILIES[family].heads[head]) for name, _ in model.named_parameters())


def rows_for(learning: str, request: pytest.FixtureRequest, folder: Path) -> Path:
    """What a task learns from: one of the tests' files, or its own example over and over."""
    if learning in SOURCES:
        found: Path = request.getfixturevalue(SOURCES[learning])
        return found
    rows = [dict(row) for row in registry.find("tasks", learning).example]
    return write_rows(folder / "example.jsonl", rows * (48 // len(rows)))


HELD = 32
"""Rows that a cell is evaluated on: twice as many as a step learns from."""


def first_rows(data: Path, folder: Path) -> Path:
    """The first HELD rows of one of the tests' files, in the format that it has."""
    written = data.read_text()
    if data.suffix == ".json":
        tree = json.loads(written)
        tree["data"][0]["paragraphs"] = tree["data"][0]["paragraphs"][:HELD]
        written = json.dumps(tree)
    else:
        between = "\n\n" if data.suffix == ".conll" else "\n"
        head = 1 if data.suffix == ".csv" else 0
        written = between.join(written.split(between)[: HELD + head]) + "\n"
    path = folder / f"held{data.suffix}"
    path.write_text(written)
    return path


def cells() -> list[tuple[str, str, str, str]]:
    out = []
    for family in FAMILIES:
        for kind in ("objectives", "tasks"):
            for learning in registry.names(kind):
                able = registry.find(kind, learning)()
                if recipe.fits(able, FAMILIES[family]):
                    out += [(family, kind, learning, method) for method in registry.names("tuning")
                            if able.adapters or registry.find("tuning", method).whole]
    return out


@cache
def covering() -> list[tuple[str, str, str, str]]:
    """A few cells that cover every pair of family, learning and method: greedily, the one with most new pairs next.

    Cells that can't work come last, for pairs that no other cell has.
    """
    whole = cells()
    able = {cell: why_not(cell[0], cell[2], cell[3]) is None for cell in whole}
    pairs = {cell: {*combinations((f"f {cell[0]}", f"l {cell[2]}", f"m {cell[3]}"), 2)} for cell in whole}
    left, out = set().union(*pairs.values()), []
    while left:
        best = max(whole, key=lambda cell: (able[cell] * len(pairs[cell] & left), len(pairs[cell] & left)))
        out.append(best)
        left -= pairs[best]
    return out


BROKEN = [("gpt2", "tasks", "translation", "prompt")]
"""Cells that were broken once, and that no pair showed: answers that end where positions do, behind a soft prompt."""
WHICH = os.environ.get("LLMKIT_MATRIX", "some")
"""all; pairs: those that cover every pair; some: every twelfth of these, for `make test` to stay short."""
CELLS = cells() if WHICH == "all" else list(dict.fromkeys(
    [*covering()[:: 1 if WHICH == "pairs" else 12], *BROKEN]))


@pytest.fixture(scope="session")
def opened_base() -> Any:
    """A base by its folder and a head, opened once for all cells that look at what tuning left as it was."""
    return cache(models.open_model)


@pytest.fixture(scope="session")
def base_of(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny pretrained model of each family: its first objective, one step."""

    @cache
    def make(family: str) -> Path:
        folder: Path = tmp_path_factory.mktemp("base") / family
        fit(recipe.load({
            "backbone": {"family": family, "size": "tiny", "config": SMALL[family]},
            "tokenizer": {"train": {"vocab_size": WORDS[family]}},
            "data": {"train": str(text), "max_length": 32}, "objective": OBJECTIVE[family],
            "training": {"figures": False, "max_steps": 1, "global_batch_size": 8}, "output_dir": str(folder)}))
        return folder

    return make


def plain(name: str) -> str:
    """A parameter's name in the untuned model: `base_model.model.x.base_layer.weight` is `x.weight`."""
    for extra in ("base_model.model.", "base_model.", "base_layer.", "modules_to_save.default."):
        name = name.replace(extra, "")
    return name


@pytest.mark.parametrize(("family", "kind", "learning", "method"), CELLS, ids=["-".join(cell) for cell in CELLS])
def test_a_cell_trains_what_it_says_resumes_and_reloads_the_same(
    family: str, kind: str, learning: str, method: str, base_of: Any, opened_base: Any,
    request: pytest.FixtureRequest, tmp_path: Path,
) -> None:
    data = request.getfixturevalue("text") if kind == "objectives" else rows_for(learning, request, tmp_path)
    held = first_rows(data, tmp_path)
    base, run = base_of(family), tmp_path / "run"
    asked = recipe.load({
        "backbone": {"pretrained": str(base)}, "tuning": {"method": method},
        "data": {"train": str(data), "validation": [str(held)], "max_length": 40 if kind == "tasks" else 32,
                 "packing": "none"},
        "objective" if kind == "objectives" else "task": {"name": learning, **OPTIONS.get(learning, {})},
        "training": {"max_steps": 6, "save_steps": 3, "global_batch_size": 16,
                     "learning_rate": 3e-3 if (family, learning) == QUICK else RATE.get(method, 3e-3),
                     "precision": "fp32"},
        "output_dir": str(run)})
    if reason := why_not(family, learning, method):
        with pytest.raises(RequestError):
            fit(asked)
        pytest.skip(reason)
    summary = fit(asked)
    if learning not in UNSTEADY and (family, learning, method) not in UNSEEN:
        assert summary["evaluation"]["loss"] < summary["evaluation_before"]["loss"]
    assert 0 < summary["trainable_parameters"] <= summary["parameters"]

    again = llmkit.evaluate(run, held)
    if summary["weights"] == "last":
        assert again["metrics"] == pytest.approx(summary["evaluation"], rel=1e-5, abs=1e-6)  # a reward is near 0

    resumed_the_same(asked, run)

    resolved = recipe.load(run / "recipe.yaml")
    head = resolved.learning.head_for(registry.find("backbones", family))
    grown = run / "base"  # where an adapter's base got embeddings for new tokens
    before = models.open_model(grown, head) if grown.is_dir() else opened_base(base, head)
    tuned = {plain(name): value for name, value in models.open_model(run, head).model.named_parameters()
             if "original_module" not in name}
    same = [name for name, value in before.model.named_parameters()
            if name not in before.missing and name in tuned and torch.equal(value, tuned[name][:len(value)])]
    known = [name for name, _ in before.model.named_parameters() if name not in before.missing and name in tuned]
    if resolved.tuning.adapter:
        assert summary["trainable_parameters"] < summary["parameters"]
        poolers = registry.find("backbones", family).poolers
        assert [name for name in known if name not in same and not name.startswith(poolers)] == []
        assert len(known) > 10
    else:
        promised = {name for name in known if TRAINS[method](family, name, bool(before.missing))}
        fixed = sum(value.numel() for value in before.model.parameters() if not value.requires_grad)  # sinusoids
        assert (summary["trainable_parameters"] == summary["parameters"] - fixed) == resolved.tuning.whole
        assert [name for name in known if name not in same and name not in promised] == []
        if not resolved.learning.idle:
            unused = ("position", "token_type") if family != "xlnet" else ("mask_emb", "seg_embed", "r_s_bias")
            assert [name for name in same if name in promised and not any(word in name for word in unused)] == []

    if head in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM") and family != "xlnet":
        from llmkit.inference.generate import Options

        written = llmkit.generate("the cat", str(run), Options(max_new_tokens=4))
        assert len(written.completions) == 1


def resumed_the_same(asked: recipe.Recipe, run: Path) -> None:
    """Go on from the checkpoint in the middle, as after a kill: what comes after it is gone."""
    name = next(run.glob("model/*.safetensors")).name
    whole = load_file(run / "model" / name)
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    fit(asked, resume="must")
    cut = load_file(run / "model" / name)
    assert [key for key in whole if not torch.equal(whole[key], cut[key])] == []


IN_PARTS = [
    ("gpt2", "objectives", "causal_lm", "full"), ("bert", "tasks", "classification", "lora"),
    ("t5", "objectives", "span_corruption", "full"), ("llama", "tasks", "instruction", "prefix"),
    ("deberta", "tasks", "tagging", "layers"), ("bart", "tasks", "translation", "bias")]
"""Cells that are learned in parts too: each shape, and methods that train all, some or none of the model's own."""


def part_of_a_run(tree: dict[str, Any], rank: int, port: int) -> None:
    """What one of two processes does."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    llmkit.fit(tree)


def in_two(tree: dict[str, Any]) -> Path:
    """The folder of a run by two processes; one that hangs is a failure."""
    context, port = multiprocessing.get_context("fork"), free_port()
    children = [context.Process(target=part_of_a_run, args=(tree, rank, port)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    ended = [child.exitcode for child in children]
    for child in children:
        child.kill()
    assert ended == [0, 0]
    return Path(tree["output_dir"])


@pytest.mark.skipif(WHICH != "all", reason="two runs of two processes each; make matrix runs them")
@pytest.mark.parametrize(("family", "kind", "learning", "method"), IN_PARTS, ids=["-".join(cell) for cell in IN_PARTS])
def test_a_cell_in_parts_learns_what_whole_models_learn(
    family: str, kind: str, learning: str, method: str, base_of: Any, request: pytest.FixtureRequest, tmp_path: Path,
) -> None:
    """On two processes by fsdp and by ddp, with dropout: losses, norms and evaluations agree to 1e-5."""
    data = request.getfixturevalue("text") if kind == "objectives" else rows_for(learning, request, tmp_path)
    runs = [in_two({
        "backbone": {"pretrained": str(base_of(family))}, "tuning": {"method": method}, "optimizer": "adamw",
        "data": {"train": str(data), "validation": [str(first_rows(data, tmp_path))], "packing": "none",
                 "max_length": 40 if kind == "tasks" else 32},
        "objective" if kind == "objectives" else "task": {"name": learning},
        "training": {"figures": False, "max_steps": 4, "eval_steps": 2, "logging_steps": 1, "global_batch_size": 16,
                     "precision": "fp32", "distributed": {"strategy": strategy}},
        "output_dir": str(tmp_path / strategy)}) for strategy in ("ddp", "fsdp")]
    assert [json.loads((run / "summary.json").read_text())["strategy"] for run in runs] == ["ddp", "fsdp"]
    whole, parts = ([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs)
    assert len(whole) == len(parts) > 4
    for ours, theirs in zip(parts, whole, strict=True):
        for name in {"loss", "grad_norm", "accuracy", "perplexity"} & theirs.keys():
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-6), (name, theirs)
    for path in (runs[0] / "model").glob("*.safetensors"):
        other = load_file(runs[1] / "model" / path.name)
        for name, value in load_file(path).items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", registry.names("tuning"))
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_gradient_checkpointing_changes_no_number(
    family: str, method: str, base_of: Any, labelled: Path, tmp_path: Path
) -> None:
    if reason := why_not(family, "classification", method):
        pytest.skip(reason)
    still = dict.fromkeys(STILL[family], 0.0)
    ends = []
    for on in (False, True):
        ends.append(fit(recipe.load({
            "backbone": {"pretrained": str(base_of(family)), "config": still}, "tuning": {"method": method},
            "data": {"train": str(labelled), "max_length": 32}, "task": "classification",
            "training": {"figures": False,
                         "max_steps": 3, "global_batch_size": 8, "precision": "fp32", "gradient_checkpointing": on},
            "output_dir": str(tmp_path / str(on))})))
    assert ends[0]["train_loss"] == pytest.approx(ends[1]["train_loss"], rel=1e-4)


@pytest.mark.parametrize("tuning", [
    *({"method": method} for method in registry.names("tuning")), {"method": "prefix", "prefix_projection": True},
    {"method": "p_tuning", "encoder_reparameterization_type": "LSTM", "encoder_dropout": 0.1},
    {"method": "prompt", "template": "<soft> {text} the cat <soft> ."}], ids=lambda tuning: "-".join(tuning))
def test_a_killed_tuning_ends_with_the_weights_of_one_that_was_not(
    tuning: dict[str, Any], base_of: Any, labelled: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    asked = recipe.load({
        "backbone": {"pretrained": str(base_of("bert"))}, "tuning": tuning,
        "data": {"train": str(labelled), "max_length": 32}, "task": "classification",
        "training": {"max_steps": 6, "save_steps": 3, "global_batch_size": 8, "precision": "fp32"},
        "output_dir": str(run)})
    fit(asked)
    resumed_the_same(asked, run)


def test_the_cells_of_a_test_run_cover_every_pair() -> None:
    whole, some = cells(), covering()

    def pairs(chosen: list[tuple[str, str, str, str]]) -> set[Any]:
        return {pair for family, _, learning, method in chosen
                for pair in combinations((("family", family), ("learning", learning), ("method", method)), 2)}

    assert pairs(some) == pairs(whole)
    assert len(some) < len(whole)
