"""The site: what mkdocs is given has no dead link, every page has a place, and a Chinese page says what it follows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from scripts import script
from test_docs import titles

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"^( *)(```+).*?^\1\2 *$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site() -> ModuleType:
    return script("docs/website.py")


@pytest.fixture(scope="module")
def staged(site: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The pages as mkdocs is given them, and their navigation."""
    pages = tmp_path_factory.mktemp("site") / "pages"
    path = list(sys.path)
    try:
        return pages, site.stage(pages)
    finally:
        sys.path[:] = path


def dead(page: Path) -> list[str]:
    """Links of a page that lead to no file, or to no heading of one."""
    words = CODE.sub("", page.read_text())
    found = []
    for target, anchor in re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)", words):
        if "://" in target:
            continue
        there = page.parent / target if target else page
        if not there.is_file() or (anchor and there.suffix == ".md" and anchor not in titles(there)):
            found.append(f"{page.name}: {target}#{anchor}")
    return found


def test_no_link_is_dead(staged: tuple[Path, list[Any]]) -> None:
    pages = sorted(staged[0].rglob("*.md"))
    assert len(pages) > 80
    assert [link for page in pages for link in dead(page)] == []


def test_a_dead_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A's page\n[x](b.md) [y](#as-page) [z](#no) [w](a.md#nor) `[v](c.md)` [u](https://x.org)\n")
    assert dead(tmp_path / "a.md") == ["a.md: b.md#", "a.md: #no", "a.md: a.md#nor"]


def places(nav: Any) -> list[str]:
    """Every page that a navigation leads to."""
    if isinstance(nav, str):
        return [nav]
    return [place for below in (nav.values() if isinstance(nav, dict) else nav) for place in places(below)]


def test_every_page_has_one_place_in_the_navigation(staged: tuple[Path, list[Any]]) -> None:
    pages, nav = staged
    there = {path.relative_to(pages).as_posix() for path in pages.rglob("*.md")}
    assert sorted(places(nav)) == sorted(there)


def test_links_out_of_the_docs_lead_to_a_copy_or_to_the_repository(site: ModuleType) -> None:
    known = {path.resolve(): place for path, place in site.sources()}
    text = ("[a](../SECURITY.md#what-is-trusted) [b](../examples/agent.py) [c](../benchmarks/) [d](decisions/) "
            "[e](https://x.org) `[f](../no.md)`")
    moved = site.moved(text, ROOT / "docs" / "serving.md", "serving.md", known)
    base = "https://github.com/llmkit/llmkit/blob/main/"
    assert moved == (f"[a](project/SECURITY.md#what-is-trusted) [b]({base}examples/agent.py) [c]({base}benchmarks) "
                     "[d](decisions/README.md) [e](https://x.org) `[f](../no.md)`")


def test_the_book_has_a_place_once_it_is_there(site: ModuleType, tmp_path: Path) -> None:
    for path in ("README.md", "objectives/README.md", "commands/llmkit.md", "zh/README.md", "project/SECURITY.md",
                 "book/README.md", "book/en/02.md", "book/en/01.md", "book/zh/01.md", "reference.md"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("# x\n")
    nav = {title: below for entry in site.navigation(tmp_path) for title, below in entry.items()}
    assert nav["Book"] == ["book/README.md", "book/en/01.md", "book/en/02.md"]
    assert nav["中文"] == ["zh/README.md", {"书": ["book/zh/01.md"]}]


# ---- Chinese twins ----


def test_every_chinese_page_says_which_english_one_it_follows(site: ModuleType) -> None:
    """That is all that fails here: a twin that is behind is told by `make site` and by a banner over the page."""
    assert {twin.page.stem for twin in site.twins()} >= {"generating", "recipes", "tasks", "tuning"}
    assert all(twin.follows.relative_to(ROOT / "docs").name == twin.page.name for twin in site.twins())


def test_a_twin_is_behind_when_its_english_page_says_something_else(site: ModuleType, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "zh").mkdir(parents=True)
    english = "# Tuning\n\nWords.\n\n<!-- plugins tuning -->\n## `full`\n<!-- end -->\n"
    (docs / "tuning.md").write_text(english)
    hash_ = site.hash_of(english)
    (docs / "zh" / "tuning.md").write_text(f"---\nfollows: docs/tuning.md\nhash: {hash_}\n---\n\n# 微调\n")
    (twin,) = site.twins(docs)
    assert not twin.behind and site.banner(twin) == "> 本页译自 [英文版](../tuning.md)。\n\n"
    (docs / "tuning.md").write_text(english.replace("## `full`", "## `lora`"))  # what `make docs` prints
    assert not twin.behind
    (docs / "tuning.md").write_text(english.replace("Words.", "Other words."))
    assert twin.behind and "英文版已有改动" in site.banner(twin)


@pytest.mark.parametrize("front", ["", "---\nhash: 0\n---\n", "---\nfollows: docs/none.md\nhash: 1a\n---\n"])
def test_a_twin_of_nothing_is_an_error(front: str, site: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "docs" / "zh").mkdir(parents=True)
    (tmp_path / "docs" / "zh" / "a.md").write_text(f"{front}# 甲\n")
    with pytest.raises(ValueError, match=r"a\.md: its front matter must say which page it follows"):
        site.twins(tmp_path / "docs")


def commands(page: str) -> list[str]:
    """The commands of a page's code, without the words beside them and what a twin says in its own language."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s*#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("llmkit ", "pip ", "$ llmkit"))]


def test_a_twin_that_is_not_behind_has_the_commands_of_its_english_page(site: ModuleType) -> None:
    for twin in site.twins():
        if not twin.behind:
            ours, theirs = (commands(site.MADE.sub("", path.read_text())) for path in (twin.page, twin.follows))
            assert ours == theirs, twin.page


def test_the_settings_ask_no_other_machine(site: ModuleType) -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert settings["strict"] and settings["theme"]["font"] is False and not settings["extra"]["generator"]
    search = next(plugin["search"] for plugin in settings["plugins"] if "search" in plugin)
    assert search["lang"] == ["en", "zh"]


@pytest.mark.slow
def test_mkdocs_builds_it_in_strict_mode(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    subprocess.run([sys.executable, str(ROOT / "docs" / "website.py")], check=True, cwd=ROOT,
                   env={**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"})
    found = json.loads((ROOT / "build" / "site" / "search" / "search_index.json").read_text())
    texts = " ".join(doc["text"] for doc in found["docs"])
    assert "配方" in texts and "fine-tune" in texts
