"""What others wrote stands in a card as it reads: no tag, link or border comes of it."""

import re

import pytest

from llmkit.exporting.card import card as exported
from llmkit.exporting.card import python
from llmkit.exporting.origin import Provenance
from llmkit.system.markdown import block, code, prose
from llmkit.system.report import card, facts

ATTACK = "x` <img src=x onerror=alert(1)>|[click](http://evil)\n---\n# \x1b[2J"


@pytest.mark.parametrize(("text", "shown"), [
    ("bert_mlm", "bert_mlm"), ("f1 (macro)", "f1 (macro)"), ("a < b", "a &lt; b"),
    ("a|b", r"a\|b"), ("a & b", "a &amp; b"),
    ("<script>alert(1)</script>", "&lt;…&gt;alert(1)&lt;…&gt;"), ("[a](b)", r"\[a\](b)"), ("*a* `b`", r"\*a\* \`b\`"),
    ("a\n# b", r"a\\n# b"), ("x > y", "x &gt; y"), ("猫", "猫")])
def test_prose(text: str, shown: str) -> None:
    assert prose(text) == shown


@pytest.mark.parametrize(("text", "shown"), [
    ("corpora/*.txt", "`corpora/*.txt`"), ("a`b", "`` a`b ``"), ("``", "``` `` ```"), ("<b>x", "`<…>x`"),
    ("a\nb", r"`a\nb`")])
def test_code(text: str, shown: str) -> None:
    assert code(text) == shown


def test_a_block_is_ended_by_nothing_in_it() -> None:
    assert block("a: b", "yaml") == "```yaml\na: b\n```"
    assert block("a\n```\n<b>") == "````\na\n```\n<b>\n````"
    assert block("`````").startswith("``````\n")
    assert block("a\x1b\r\nb") == "```\na\\x1b\nb\n```"


def summary(**more: object) -> dict[str, object]:
    about = {"what": "Trained", "backbone": ATTACK, "kind": "task", "learning": "classification", "tuning": "full",
             "data": [ATTACK, "b.jsonl"]}
    return {"recipe": about, "versions": {"llmkit": "1"}, "parameters": 7, "trainable_parameters": 7, "steps": 2,
            "tokens": 30, "status": "completed", "evaluation": {f"f1 {ATTACK}": 0.5}, "adapter": False,
            "floors": {"<b>majority": {"loss": 1.0}}, **more}


def outside_of_code(page: str) -> str:
    """A page as Markdown has it, without fenced blocks and code spans (CommonMark 4.5, 6.1)."""
    page = re.sub(r"^(`{3,})[^\n]*\n.*?^\1$", "", page, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<![`\\])(`+)(?!`).*?(?<!`)\1(?!`)", "", page)


@pytest.mark.parametrize("page", [
    card(summary(), f"a {ATTACK}", f"data:\n  train: '{ATTACK}'\n  x: '````'\n"),
    exported(Provenance("m", ATTACK, summary(), {}, ATTACK, ATTACK, None, ATTACK), ATTACK, "AutoModel", "transformers",
             python(f'print("{ATTACK}")')),
    exported(Provenance("m", ATTACK, {}, {}, None, None, None, ATTACK), ATTACK, "AutoModel", "transformers", ""),
], ids=["run", "export", "copy"])
def test_no_card_has_html_links_or_escapes_of_others(page: str) -> None:
    assert "\x1b" not in page
    head, rest = re.fullmatch(r"---\n(.*?)\n---\n(.*)", page, re.DOTALL).groups()
    assert "<script" not in head
    seen = outside_of_code(rest)
    assert not re.search(r"<[a-zA-Z/!]", seen) and not re.search(r"(?<!\\)\[[^]]*(?<!\\)\]\(", seen)
    assert "\n---\n#" not in seen


def test_a_table_has_the_columns_of_its_head() -> None:
    lines = [line for line in facts(summary()) if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [5, 5, 5]


def test_a_plain_card_is_what_it_was() -> None:
    about = {"what": "Trained", "backbone": "bert-mini", "kind": "objective", "learning": "masked_lm", "tuning": "full",
             "data": ["corpora/*.txt"]}
    page = card(summary(recipe=about, evaluation={}), "bert_mlm", "name: bert_mlm\n")
    assert page == """---
library_name: transformers
tags: [llmkit]
---
# bert_mlm

Trained with llmkit 1: backbone `bert-mini`, objective `masked_lm`, tuning `full`.

- parameters: 7, of which 7 were trained
- steps: 2; tokens: 30; status: completed
- data: `corpora/*.txt`

The recipe, with every default written out:

```yaml
name: bert_mlm
```
"""
