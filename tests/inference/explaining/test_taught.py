"""A model that was taught a rule is explained by it: in words, as JSON, as pictures and as a page; also when tuned."""

import base64
import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, STILL, tiny

from llmkit import recipe
from llmkit.cli import main
from llmkit.inference.explaining.explanation import explain
from llmkit.training.fit import fit

WORDS = ["the", "cat", "a", "dog", "my", "friend", "old", "king", "small", "bird", "saw", "found", "red", "ball"]
RULE, YES, NO = "magic", "<script>alert(1)</script>", "no"
"""A text has the first label where the word is in it; the label's name is what a page must not run."""
TEXT = "the old cat found a magic red ball"


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT that learned whether a word is there."""
    folder, rng = tmp_path_factory.mktemp("rule"), random.Random(0)
    rows = []
    for i in range(320):
        words = rng.choices(WORDS, k=rng.randint(4, 9))
        if i % 2:
            words[rng.randrange(len(words))] = RULE
        rows.append(f"{' '.join(words)},{YES if i % 2 else NO}\n")
    (folder / "rows.csv").write_text("text,label\n" + "".join(rows))
    fit(recipe.load({
        "name": "taught", "seed": 1, "tokenizer": {"train": {"vocab_size": 120}},
        "backbone": {"family": "bert", "size": "tiny", "config": {**SMALL["bert"], **STILL["bert"]}},
        "data": {"train": str(folder / "rows.csv"), "max_length": 32}, "task": {"name": "classification"},
        "training": {"max_steps": 60, "global_batch_size": 32, "learning_rate": 5e-3, "precision": "fp32",
                     "lr_scheduler_type": "constant"},
        "output_dir": str(folder / "run")}))
    return folder / "run"


@pytest.fixture(scope="module")
def tuned(taught: Path) -> dict[str, Path]:
    """Runs that go on from it, a step each: by an adapter, a prefix and a soft prompt."""
    out = {}
    for method, options in (("lora", {}), ("prefix", {"num_virtual_tokens": 3}), ("prompt", {"num_virtual_tokens": 3})):
        out[method] = taught.parent / method
        fit(recipe.load({
            "name": method, "seed": 1, "backbone": {"pretrained": str(taught)},
            "data": {"train": str(taught.parent / "rows.csv"), "max_length": 32}, "task": {"name": "classification"},
            "tuning": {"method": method, **options},
            "training": {"max_steps": 1, "global_batch_size": 8, "learning_rate": 1e-4, "precision": "fp32"},
            "output_dir": str(out[method])}))
    return out


def largest(tokens: list[dict[str, Any]], values: list[float | None]) -> str:
    """The token that is worth most."""
    return str(max(zip(values, tokens, strict=True), key=lambda pair: pair[0] or 0.0)[1]["text"])


def test_the_rule_is_what_the_answer_rests_on(taught: Path) -> None:
    pytest.importorskip("captum")
    found = explain(taught, TEXT, what=["tokens"])
    document = found.as_json()
    assert (found.subject.aim.name, found.probability > 0.9) == (YES, True)
    for way in ("occlusion", "integrated_gradients"):
        values = document[way]["values"]
        assert largest(document["tokens"], values) == RULE
        others = [abs(value or 0) for value, token in zip(values, document["tokens"], strict=True)
                  if token["text"] != RULE and not token["special"]]
        assert max(others) < 0.2 * max(value or 0 for value in values)
    without = explain(taught, TEXT.replace(RULE, "small"), what=["tokens"])
    assert without.subject.aim.name == NO


@pytest.mark.parametrize("method", ["lora", "prefix", "prompt"])
def test_tuned_models_are_explained_by_it_too(method: str, tuned: dict[str, Path]) -> None:
    found = explain(tuned[method], TEXT, what=["attention", "tokens"])
    document = found.as_json()
    assert largest(document["tokens"], document["occlusion"]["values"]) == RULE
    assert largest(document["tokens"], document["integrated_gradients"]["values"]) == RULE
    (maps,) = found.maps
    virtual = [token.text for token in maps.keys if token.id is None]
    assert virtual == {"lora": [], "prefix": ["virtual 0", "virtual 1", "virtual 2"]}.get(
        method, ["virtual 0", "virtual 1", "virtual 2"])
    assert maps.weights.sum(-1) == pytest.approx(1, abs=1e-5)
    if method == "prompt":  # behind [CLS], as the model reads it
        assert [token.text for token in maps.keys][:4] == ["[CLS]", *virtual]


def test_a_run_that_writes_reads_the_text_in_its_own_template(asked: Path, tmp_path: Path) -> None:
    made = {**tiny("gpt2", asked, tmp_path / "run", max_steps=1), "task": {"name": "instruction", "max_new_tokens": 8}}
    made.pop("objective")
    fit(recipe.load(made))
    found = explain(tmp_path / "run", "what did the cat do ?", what=["tokens"])
    assert [token.text for token in found.subject.tokens][-1] == "⏎"  # where its answers begin
    assert found.subject.aim.kind == "next word"


def test_attention_to_a_prefix_is_what_the_outputs_are_made_of(tuned: dict[str, Path]) -> None:
    import torch

    from llmkit.inference.explaining.opening import open_subject
    from llmkit.tuning.shared.attention_prefix import attention_shown

    subject = open_subject(tuned["prefix"], TEXT)
    with torch.no_grad():
        before = subject.model(**subject.inputs).logits
        with attention_shown(subject.base):
            shown = subject.model(**subject.inputs).logits
        after = subject.model(**subject.inputs).logits
    assert torch.allclose(before, shown, atol=1e-5)
    assert torch.equal(before, after)


def test_a_soft_prompt_has_words_and_a_prefix_says_why_not(
    tuned: dict[str, Path], capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(explain(tuned["prompt"], TEXT, what=["prompt"]).prompt["virtual_tokens"]) == 3
    assert main(["explain", str(tuned["prompt"]), "--what", "prompt"]) == 0
    assert "3 virtual tokens" in capsys.readouterr().out
    assert main(["explain", str(tuned["prefix"]), "--what", "prompt"]) == 2
    assert "its prefix is keys and values of every layer" in capsys.readouterr().err


# ---- the command ----

def test_the_command_says_it_in_words(taught: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(taught), TEXT]) == 0
    out, err = capsys.readouterr()
    assert f"label '{YES}', probability 0.9" in out
    assert "magic[+++]" in out
    assert "attention, encoder, self-attention: 2 layers of 2 heads" in out
    assert "whose head says no words" in err  # what can't be shown of all is said
    assert main(["explain", TEXT, "--model", str(taught), "--what", "attention", "--layer", "2", "--head", "1"]) == 0
    assert "layer 2" not in capsys.readouterr().out.partition("attention,")[0]


def test_the_command_prints_one_json_document(taught: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = taught.parent / "texts.txt"
    rows.write_text(f"a dog\n{TEXT}\n")
    assert main(["explain", str(taught), str(rows), "--row", "1", "--json", "--target", NO]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["text"], document["explained"]["name"]) == (TEXT, NO)
    assert document["attention"][0]["side"] == "encoder"
    assert main(["explain", str(taught), str(rows), "--row", "2"]) == 2
    assert "--row 2: there are 2 texts" in capsys.readouterr().err


def test_a_page_is_in_chinese_where_that_is_chosen(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LLMKIT_LANG", "zh")
    page = tmp_path / "page.html"
    assert main(["explain", str(taught), TEXT, "-o", str(page)]) == 0
    html = page.read_text(encoding="utf-8")
    assert '<html lang="zh-Hans">' in html and "标签 &#x27;&lt;script&gt;" in html
    assert re.findall("<h2>(.*?)</h2>", html) == ["回答的依据", "注意力: 编码器，自注意力", "这类图说明不了什么"]
    assert "第 1 层，第 2 头" in html and "Jain &amp; Wallace 2019" in html and "Attention says" not in html
    assert '<th scope="col">遮挡（occlusion）</th>' in html and "magic" in html
    assert "概率" in capsys.readouterr().err


def test_a_page_escapes_all_text_and_lets_in_nothing(taught: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["explain", str(taught), f"{TEXT} <script>alert(2)</script> <img src=x>", "-o", str(page)]) == 0
    html = page.read_text()
    assert "<script" not in html and "<img src=x" not in html and "http" not in html.replace("http-equiv", "")
    assert "&lt;script&gt;alert(1)" in html
    style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert len(style) == 1 and "style=" not in html
    assert (f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
            in html)
    heads = re.findall(r'<a href="#(encoder-\d-\d)"', html)
    assert heads == ["encoder-1-1", "encoder-1-2", "encoder-2-1", "encoder-2-2"]
    assert all(f'<section class="head" id="{head}">' in html for head in heads)
    assert all(' alt="' in image for image in re.findall(r"<img [^>]*>", html))
    assert "Jain &amp; Wallace 2019" in html


@pytest.mark.parametrize(("name", "begins", "more"), [
    ("one.svg", b"<?xml", ("--what", "attention", "--layer", "1", "--head", "2")),
    ("dark.png", b"\x89PNG", ("--what", "tokens,attention", "--layer", "1", "--theme", "dark"))])
def test_pictures(name: str, begins: bytes, more: tuple[str, ...], taught: Path, tmp_path: Path) -> None:
    assert main(["explain", str(taught), f"{TEXT} $x_1$ 猫", "-o", str(tmp_path / name), *more]) == 0
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize(("words", "said"), [
    ((TEXT, "-o", "page.pdf"), "a picture's name ends with .png or .svg, a page's with .html"),
    ((TEXT, "-o", "nowhere/x.png"), "its folder does not exist"),
    ((TEXT, "--theme", "drak"), "--theme drak: is neither light nor dark. Did you mean 'dark'?"),
    ((TEXT, "--hide", "hole"), "--hide hole: is neither mask nor remove"),
    ((TEXT, "--what", "tokns"), "--what tokns: can't be shown. Did you mean 'tokens'?"),
    ((TEXT, "--row", "1"), "--row 1: is for a file"),
    ((TEXT, "--written", "x"), "--written: is for encoder-decoders"),
    ((), "TEXT: what is to be explained?"),
    ((TEXT, "--head", "1", "--what", "tokens"), "--head: is of attention, which isn't shown"),
])
def test_wrong_requests_have_one_line(
    words: tuple[str, ...], said: str, taught: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain", str(taught), *words]) in (2, 6)
    last = capsys.readouterr().err.rstrip().rpartition("\n")[2]
    assert last.startswith("llmkit: error: ") and said in last
