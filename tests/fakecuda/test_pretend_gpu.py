"""Families, objectives and tasks on a GPU that isn't there: where CUDA would raise, so does it."""

import json
import math
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import FAMILIES, OBJECTIVE, random_encoder, stories, tiny
from test_matrix import OPTIONS, covering, rows_for, why_not

from fakecuda.asking import Pretend
from fakecuda.build import build, lacking
from llmkit import recipe
from llmkit.inference.writing.options import Options
from llmkit.inference.writing.writer import Writer
from llmkit.objectives.shared.chance import gumbel
from llmkit.recipe import registry
from llmkit.system import machine
from llmkit.training.fit import fit

pytestmark = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))


@pytest.fixture(scope="session")
def pretend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pretend]:
    """A process with the pretend GPU, of which each worker of the tests has one."""
    kept = getattr(request.config, "cache", None)
    folder = tmp_path_factory.mktemp("pretend")
    there = Pretend(build(kept.mkdir("fakecuda") if kept is not None else folder), folder)
    yield there
    there.close()


MICRO_BATCHES = 2
READ = {"contrastive": 4, "replaced_token": 2}
"""How often a model reads a micro-batch: its two views twice (GradCache), two networks; once for the others."""
THEIRS = {"deberta": 2, "adversarial": 8}
"""How often at most transformers itself waits while a micro-batch is read: for DeBERTa's scale, and for the caches of a
generator that writes samples and the mask of a discriminator that reads them. Not at all for the others."""


def shortest() -> list[tuple[str, str]]:
    """(family, objective) pairs in which each family and each objective stands, few of them."""
    pairs = [(family, name) for family in FAMILIES for name in registry.names("objectives")
             if recipe.fits(registry.find("objectives", name)(), FAMILIES[family])]
    left, out = {word for pair in pairs for word in pair}, []
    while left:
        best = max(pairs, key=lambda pair: (len(left & {*pair}), pair[1] == OBJECTIVE[pair[0]]))
        out.append(best)
        left -= {*best}
    return out


def short_run(family: str, name: str, text: Path, folder: Path, **training: Any) -> dict[str, Any]:
    """The recipe of four steps of two micro-batches each, an evaluation before and after, a checkpoint and a model."""
    tree = tiny(family, text, folder, **{
        "precision": "bf16", "micro_batch_size": 4, "logging_steps": 2, "dataloader_num_workers": 0, **training})
    tree["objective"] = {"name": name, **OPTIONS.get(name, {})}
    tree["data"]["validation"] = 0.2
    return tree


# ---- what `make test` runs ----


@pytest.mark.parametrize(("family", "objective"), [
    pytest.param(*pair, id="-".join(pair), marks=[pytest.mark.pretend_gpu] if i % 2 else [])
    for i, pair in enumerate(shortest())])
def test_each_family_and_each_objective_trains_and_seldom_waits(
    family: str, objective: str, pretend: Pretend, text: Path, tmp_path: Path) -> None:
    said, waits = pretend.ask("train", recipe=short_run(family, objective, text, tmp_path / "run"))
    assert said["device"] == "cuda" and math.isfinite(said["loss"])
    theirs = sum(count for _, place, count in waits if "<- transformers/" in place)
    most = max(THEIRS.get(family, 0), THEIRS.get(objective, 0))
    assert theirs <= most * MICRO_BATCHES * READ.get(objective, 1), waits
    assert sum(count for _, _, count in waits) - theirs == 1, waits  # for the loss and the gradient's norm, together


@pytest.mark.parametrize(("family", "objective", "packing"), [
    ("gpt2", "causal_lm", "none"), pytest.param("modernbert", "masked_lm", "none", marks=pytest.mark.pretend_gpu),
    pytest.param("llama", "causal_lm", "documents", marks=pytest.mark.pretend_gpu)])
def test_flash_attention_sees_no_padding_and_no_layer_asks_for_it(
    family: str, objective: str, packing: str, pretend: Pretend, text: Path, tmp_path: Path) -> None:
    losses = []
    for way in ("sdpa", "flash_attention_2"):
        tree = short_run(family, objective, text, tmp_path / way)
        tree["backbone"]["attn_implementation"] = way
        tree["data"]["packing"] = packing
        said, waits = pretend.ask("train", recipe=tree, flash=True)
        losses.append(said["loss"])
        assert sum(count for _, _, count in waits) == 1, waits
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)  # in bf16


def test_the_page_on_gpus_says_how_often_each_objective_waits() -> None:
    """It names each objective, and says 1 of those that wait for nothing of transformers'."""
    page = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    once = "".join(names for names, waits in rows if waits.strip() == "1")
    more = "".join(names for names, waits in rows if "which" in waits)
    for name in registry.names("objectives"):
        assert f"`{name}`" in (more if name in THEIRS else once), name


@pytest.fixture(scope="session")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of a family, trained a step on the CPU."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("trained") / family
            fit(recipe.load(tiny(family, text, made[family], max_steps=1)))
        return made[family]

    return make


@pytest.mark.parametrize(("settings", "texts"), [
    ({}, 1), ({}, 3), ({"sample": True, "top_p": 0.9, "repetition_penalty": 1.1}, 3)])
def test_a_decoder_is_served_with_two_waits_a_token(
    settings: dict[str, Any], texts: int, pretend: Pretend, trained: Any) -> None:
    """It says what it says on a CPU; the host waits for the logits, and nothing of ours waits beside it."""
    said, waits = pretend.ask("serve", model=trained("gpt2"), texts=texts, **settings)
    assert said["engine"] == "Engine"
    steps = [wait for wait in waits if wait[0] == "copy to host" and "<-" not in wait[1] and "engine.py" in wait[1]]
    ours = [wait for wait in waits if "serving/" in wait[1] and "<-" not in wait[1]
            and "served.py" not in wait[1]]  # which opens models
    assert ours == steps, ours
    # 6 tokens: a step for each but the first; the prompts once; two readings and one step of the trial before
    assert sum(wait[2] for wait in steps) <= 6 + texts + 5, steps


def test_generate_waits_once_a_token(pretend: Pretend, trained: Any) -> None:
    said, waits = pretend.ask("generate", model=trained("gpt2"), max_new_tokens=6)
    (tokens,) = [tokens for _, tokens in said]
    ours = [wait for wait in waits if "token_loop.py" in wait[1] and "<-" not in wait[1]]
    assert sum(wait[2] for wait in ours) <= tokens + 2, ours  # and the prompt with its mask, once


PROMPTS = ["the cat", "the cat saw the moon and the dog saw the cat and the bird", "a dog"]
"""Of unequal lengths, so that a batch has padding."""


def on_the_cpu(model: Path, **options: Any) -> list[Any]:
    """What a model writes behind the prompts without a GPU."""
    writer = Writer.open(str(model), dtype="float32")
    made = writer.write([writer.ids(prompt) for prompt in PROMPTS], Options(**options), numbers=range(len(PROMPTS)))
    return [[[one.text, one.tokens, one.score] for one in completions] for completions in made]


def alike(some: list[Any], others: list[Any]) -> bool:
    """Whether texts are the same, and as likely."""
    flat, also = ([one for completions in made for one in completions] for made in (some, others))
    return all(one[:2] == other[:2] and one[2] == pytest.approx(other[2], abs=1e-4)
               for one, other in zip(flat, also, strict=True))


@pytest.mark.parametrize("compiled", [None, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("family", [
    "gpt2", *(pytest.param(name, marks=pytest.mark.pretend_gpu) for name in ("llama", "qwen3", "t5", "bart"))])
def test_a_gpu_writes_what_a_cpu_writes_and_waits_once_a_token(
    family: str, compiled: bool | None, pretend: Pretend, trained: Any, tmp_path: Path) -> None:
    """Texts end at different tokens: by what they say, for stop strings are its words."""
    options, model = {"max_new_tokens": 12, "stop": ["the", "w"], "repetition_penalty": 1.3}, tmp_path / "model"
    shutil.copytree(trained(family) / "model", model)
    config = json.loads((model / "generation_config.json").read_text())
    # an untrained BART ends at once
    (model / "generation_config.json").write_text(json.dumps({**config, "min_new_tokens": 3}))
    here = on_the_cpu(model, **options)
    found, waits = pretend.ask("write", model=model, prompts=PROMPTS, compile=compiled, **options)
    assert alike(found["said"], here) and here[0][0][1] > 1
    steps = max(one[1] for completions in here for one in completions) + 1
    reads = [wait for wait in waits if "token_loop.py" in wait[1]]
    assert sum(wait[2] for wait in reads) <= steps + 2, reads  # and the prompts with their mask, once
    calls = found["calls"]
    assert all(mode == "reduce-overhead" for mode, _ in calls)
    assert len({json.dumps(call) for call in calls}) == (compiled is True)  # one graph for all steps
    assert len(calls) <= steps


@pytest.mark.parametrize("compiled", [None, True], ids=["plain", "compiled"])
def test_noise_is_drawn_on_the_device_by_a_texts_own_seed(
    compiled: bool | None, pretend: Pretend, trained: Any) -> None:
    """A text is the same alone and among others, and the host waits for tokens only."""
    asked = {"model": trained("gpt2"), "prompts": PROMPTS, "max_new_tokens": 8, "temperature": 1.2, "top_p": 0.9,
             "top_k": 40, "seed": 3, "num_return_sequences": 2, "compile": compiled}
    together, waits = pretend.ask("write", **asked)
    alone, _ = pretend.ask("write", alone=True, **asked)
    assert alike(together["said"], alone["said"])
    texts = {one[0] for completions in together["said"] for one in completions}
    assert len(texts) == 6  # each by its own chance
    reads = [wait for wait in waits if "writing/" in wait[1]]
    assert sum(wait[2] for wait in reads if "token_loop.py" in wait[1]) <= 8 + 2, reads
    assert not [wait for wait in reads if "sampling.py" in wait[1]], reads


@pytest.mark.parametrize(("family", "why"), [
    ("xlnet", "transformers' XLNetLMHeadModel has no cache of fixed size"),
    pytest.param("qwen3_moe", "which experts a layer needs is known when it runs", marks=pytest.mark.pretend_gpu)])
def test_a_model_whose_steps_cannot_be_compiled_is_refused_with_the_reason(
    family: str, why: str, pretend: Pretend, trained: Any) -> None:
    with pytest.raises(AssertionError, match=f"compile: {why}; leave it out"):
        pretend.ask("write", model=trained(family), prompts=["the cat"], compile=True)


def test_gumbel_noise_is_made_on_the_device_by_each_rows_own_seed(pretend: Pretend) -> None:
    """The pretend device draws as a CPU does, so the numbers can be compared; no wait but to read them."""
    found, waits = pretend.ask("noise", seeds=[3, 7], words=50, count=3)
    here = [one.tolist() for one in islice(gumbel([3, 7], 50, torch.device("cpu")), 3)]
    assert found == here
    assert sum(wait[2] for wait in waits) == 3 and {wait[0] for wait in waits} == {"copy to host"}, waits


def test_batches_are_prepared_by_other_processes_and_are_the_same(
    pretend: Pretend, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` takes some on a GPU, where a core is left."""
    losses = []
    for workers in ("auto", 0):
        tree = short_run("gpt2", "causal_lm", text, tmp_path / str(workers), dataloader_num_workers=workers,
                         precision="fp32", max_steps=2)
        del tree["data"]["validation"]
        said, _ = pretend.ask("train", recipe=tree, watched=[])
        losses.append(said["loss"])
    resolved = [yaml.safe_load((tmp_path / name / "recipe.yaml").read_text())["training"]["dataloader_num_workers"]
                for name in ("auto", "0")]
    assert resolved == [min(4, machine.cores() - 1), 0]
    assert losses[0] == losses[1]


def test_rows_are_judged_by_their_tokens_and_the_loss_is_the_same(
    pretend: Pretend, text: Path, tmp_path: Path) -> None:
    """16,384 positions would be 512 rows of 32; 8 times a micro-batch of 4 are the most."""
    said, _ = pretend.ask("train", recipe=short_run("bert", "masked_lm", text, tmp_path / "gpu", precision="fp32"))
    here = fit(recipe.load(short_run("bert", "masked_lm", text, tmp_path / "cpu", precision="fp32")))
    once = said["judged"][: len(said["judged"]) // 2]  # an evaluation before the first step and one after the last
    assert once[:-1] == [32] * (len(once) - 1) and 0 < once[-1] <= 32, once
    assert said["evaluation"]["loss"] == pytest.approx(here["evaluation"]["loss"], rel=1e-3)


# ---- what CUDA refuses, the pretend GPU refuses ----


@pytest.mark.parametrize(("code", "raises"), [
    ("torch.ones(2, device='cuda') + torch.ones(2)", "at least two devices"),
    ("torch.ones(2, device='cuda') + torch.tensor(1.0)", ""),
    ("torch.ones(2, device='cuda').numpy()", "can't convert cuda:0"),
    ("torch.rand(2, generator=torch.Generator(), device='cuda')", "Expected a 'cuda' device type for generator"),
    ("torch.ones(2)[torch.tensor([0], device='cuda')]", "indices should be either on cpu"),
    ("torch.ones(2, device='cuda')[torch.tensor([0])]", ""),
    ("torch.nn.functional.embedding(torch.tensor([1]), torch.ones(2, 2, device='cuda'))", "at least two devices"),
])
def test_what_cuda_refuses_is_refused(code: str, raises: str, pretend: Pretend) -> None:
    if not raises:
        pretend.ask("run", code=code)
        return
    with pytest.raises(AssertionError, match=raises):
        pretend.ask("run", code=code)


@pytest.mark.parametrize(("code", "kinds"), [
    ("float(torch.ones(1, device='cuda'))", ["read a number"]),
    ("torch.ones(3, device='cuda').tolist()", ["copy to host"]),
    ("torch.tensor([1], device='cuda')", ["copy from host"]),
    ("torch.tensor([1]).to('cuda', non_blocking=True)", []),
    ("torch.ones(3, device='cuda').nonzero()", ["a shape by values (nonzero)"]),
    ("torch.ones(3, device='cuda')[torch.ones(3, device='cuda') > 0]", ["a shape by values (boolean index)"]),
    ("(torch.ones(3, device='cuda') * 2).sum()", []),
])
def test_what_the_host_waits_for_is_counted(code: str, kinds: list[str], pretend: Pretend) -> None:
    assert [kind for kind, _, _ in pretend.ask("run", code=code)[1]] == kinds


# ---- what `make pretend-gpu` runs ----


CELLS = [cell for cell in covering() if why_not(cell[0], cell[2], cell[3]) is None]


@pytest.mark.pretend_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("family", "kind", "learning", "method"), CELLS, ids=["-".join(cell) for cell in CELLS])
def test_a_cell_trains_in_each_precision(
    family: str, kind: str, learning: str, method: str, precision: str, pretend: Pretend, trained: Any,
    request: pytest.FixtureRequest, tmp_path: Path,
) -> None:
    if precision == "fp16" and FAMILIES[family].model_type in ("t5", "umt5"):
        pytest.skip("its activations overflow in fp16: it is refused")
    data = request.getfixturevalue("text") if kind == "objectives" else rows_for(learning, request, tmp_path)
    said, _ = pretend.ask("train", recipe={
        "backbone": {"pretrained": str(trained(family))}, "tuning": {"method": method},
        "data": {"train": str(data), "validation": [str(data)], "max_length": 40 if kind == "tasks" else 32,
                 "packing": "none"},
        "objective" if kind == "objectives" else "task": {"name": learning, **OPTIONS.get(learning, {})},
        "training": {"max_steps": 4, "save_steps": 4, "global_batch_size": 8, "learning_rate": 1e-3,
                     "precision": precision, "dataloader_num_workers": 0},
        "output_dir": str(tmp_path / "run")})
    assert said["device"] == "cuda" and math.isfinite(said["loss"])


@pytest.mark.pretend_gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_steps_that_are_not_finite_are_left_out_one_after_the_other(
    precision: str, pretend: Pretend, text: Path, tmp_path: Path) -> None:
    """After a step that is far too large no loss is finite: each further step is left out, and none is an error."""
    tree = short_run("gpt2", "causal_lm", text, tmp_path / "run", precision=precision, learning_rate=1e30,
                     max_grad_norm=None, on_nonfinite="skip")
    del tree["data"]["validation"]
    pretend.ask("train", recipe=tree)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "skipped"] == [2, 3, 4]


@pytest.mark.pretend_gpu
@pytest.mark.parametrize(("family", "objective"), [
    (family, OBJECTIVE[family]) for family in FAMILIES if FAMILIES[family].model_type != "xlnet"])
def test_fp32_learns_what_it_learns_on_a_cpu(
    family: str, objective: str, pretend: Pretend, text: Path, tmp_path: Path) -> None:
    there, here = (short_run(family, objective, text, tmp_path / name, precision="fp32", still=True)
                   for name in ("gpu", "cpu"))  # dropout would draw other numbers on a GPU
    said, _ = pretend.ask("train", recipe=there)
    assert said["loss"] == pytest.approx(fit(recipe.load(here))["train_loss"], rel=1e-5)


@pytest.mark.pretend_gpu
@pytest.mark.parametrize("family", [
    name for name, family in FAMILIES.items() if family.shape in ("decoder", "encoder-decoder")])
def test_each_writer_writes_and_is_served(family: str, pretend: Pretend, trained: Any) -> None:
    for beams in (1, 2):
        said, _ = pretend.ask("generate", model=trained(family), max_new_tokens=6, num_beams=beams)
        assert len(said) == 1
    said, _ = pretend.ask("serve", model=trained(family), texts=2)
    assert len(said["texts"]) == 2


@pytest.mark.pretend_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", ["gpt2", "qwen3", "t5"])
def test_texts_are_written_in_each_of_a_gpus_numbers(family: str, dtype: str, pretend: Pretend, trained: Any) -> None:
    said, _ = pretend.ask("generate", model=trained(family), max_new_tokens=4, dtype=dtype)
    assert len(said) == 1


@pytest.mark.parametrize(("family", "bf16", "dtype"), [
    pytest.param("gpt2", False, "torch.float16", id="fp16"),
    pytest.param("gpt2", True, "torch.bfloat16", id="bf16", marks=pytest.mark.pretend_gpu),
    pytest.param("t5", False, "torch.float32", id="fp32", marks=pytest.mark.pretend_gpu)])
def test_a_server_writes_in_what_the_gpu_multiplies_itself(
    family: str, bf16: bool, dtype: str, pretend: Pretend, trained: Any) -> None:
    said, _ = pretend.ask("serve", model=trained(family), texts=2, bf16=bf16)
    assert (said["dtype"], len(said["texts"])) == (dtype, 2)


@pytest.mark.pretend_gpu
@pytest.mark.parametrize("family", [*FAMILIES])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_each_family_is_evaluated(
    family: str, precision: str, pretend: Pretend, trained: Any, text: Path) -> None:
    if precision == "fp16" and FAMILIES[family].model_type in ("t5", "umt5"):
        pytest.skip("its activations overflow in fp16: it is refused")
    said, _ = pretend.ask("evaluate", model=trained(family), data=text, precision=precision)
    assert math.isfinite(said["loss"])


@pytest.mark.pretend_gpu
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_texts_are_scored(family: str, pretend: Pretend, trained: Any) -> None:
    said, _ = pretend.ask("score", model=trained(family), texts=["the cat saw the moon .", "a dog"])
    assert all(value < 0 for value in said)


@pytest.mark.pretend_gpu
def test_texts_are_searched(pretend: Pretend, text: Path, tmp_path: Path) -> None:
    model = random_encoder(tmp_path / "encoder", stories(40))
    assert len(pretend.ask("search", model=model, where=text)[0]) == 5


@pytest.mark.pretend_gpu
@pytest.mark.parametrize(("family", "task"), [
    ("bert", "classification"), ("bert", "tagging"), ("bert", "question_answering"), ("bert", "similarity"),
    ("bert", "multiple_choice"), ("gpt2", "instruction"), ("t5", "translation"), ("t5", "summarization")])
def test_each_task_is_predicted(
    family: str, task: str, pretend: Pretend, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    data = rows_for(task, request, tmp_path)
    tree = tiny(family, data, tmp_path / "run", max_steps=1)
    del tree["objective"]
    tree["data"]["max_length"] = 40
    fit(recipe.load(tree | {"task": {"name": task}}))
    for precision in ("fp32", "bf16", *(["fp16"] if family != "t5" else [])):
        said, _ = pretend.ask("predict", model=tmp_path / "run", data=data, precision=precision)
        assert said
