"""The site of the documentation, in English and Chinese: stage the pages, then build them by mkdocs. `make site`.

    python docs/website.py              build/site, in strict mode and without a network
    python docs/website.py --stage      build/pages alone: what mkdocs is given
    python docs/website.py --behind     which Chinese pages follow an older English one

A page of docs/ may have a twin, docs/zh/NAME.md, which says in its front matter which English text it follows:

    ---
    follows: docs/tuning.md
    hash: 5f0c6a1e9b12
    ---

Beside the pages as they are stand a page a command (docs/manual.py), the Python reference from docstrings, and the
book, docs/book/en and docs/book/zh, where it is there. Links that lead out of docs/ lead to a copy, or to the
repository.
"""

import hashlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REPOSITORY = "https://github.com/llmkit/llmkit/blob/main/"
PROJECT = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""Pages of the root that are on the site, in project/."""
MADE = re.compile(r"(<!-- (?:row|options|families|recipe|plugins) .*? -->\n).*?(<!-- end -->)", re.DOTALL)
"""What docs/pages.py writes: a twin doesn't follow it by hand."""
FENCED = re.compile(r"^( *)(```+).*?^\1\2 *$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)\s#]*)(#[^)\s]*)?(\))")
SECTIONS = {
    "Start": ("README", "installing", "recipes", "migration", "models"),
    "Train": ("tasks", "tuning", "optimizers", "distillation", "mixture_of_experts", "word_swaps", "large_text"),
    "Use": ("generating", "verbs", "chat", "prompting", "search", "answering", "agent", "scoring", "explaining",
            "serving", "export", "judging"),
    "Run": ("planning", "doctor", "gpu", "several_machines", "sharding", "reports", "board", "trackers", "reliability",
            "limits"),
    "Python": ("python", "notebook", "shell", "plugins", "architecture"),
    "Measured": ("results", "performance")}
"""English pages by what they are for; one that isn't named here comes last."""


class Twin(NamedTuple):
    """A Chinese page, and the English one that it follows."""

    page: Path
    follows: Path
    hash: str

    @property
    def behind(self) -> bool:
        """Whether the English page says something else now than what was translated."""
        return hash_of(self.follows.read_text(encoding="utf-8")) != self.hash


def hash_of(page: str) -> str:
    """Twelve digits of a page's own words: what is printed into it by `make docs` doesn't count."""
    return hashlib.sha256(MADE.sub(r"\1\2", page).encode()).hexdigest()[:12]


def front_matter(page: str) -> tuple[dict[str, Any], str]:
    """({"follows": …}, the rest) of a page; ({}, the page) where it has none."""
    found = re.match(r"---\n(.*?)\n---\n+", page, re.DOTALL)
    return (yaml.safe_load(found[1]), page[found.end():]) if found else ({}, page)


def twins(docs: Path = DOCS) -> list[Twin]:
    """The Chinese pages. ValueError where one doesn't say what it follows, or that isn't there."""
    found = []
    for page in sorted((docs / "zh").rglob("*.md")):
        about, _ = front_matter(page.read_text(encoding="utf-8"))
        follows = docs.parent / str(about.get("follows"))
        if not follows.is_file() or not about.get("hash"):
            raise ValueError(f"{page}: its front matter must say which page it follows and its hash, as\n---\nfollows: "
                             f"docs/{page.name}\nhash: {'0' * 12}\n---\nand {about.get('follows')} isn't there.")
        found.append(Twin(page, follows, str(about["hash"])))
    return found


def banner(twin: Twin) -> str:
    """What stands over a Chinese page: which English one it follows, and whether that has changed since."""
    name = os.path.relpath(twin.follows, twin.page.parent)
    if not twin.behind:
        return f"> 本页译自 [英文版]({name})。\n\n"
    return f"> **英文版已有改动。** 本页译自较早的 [英文版]({name})；内容不一致时，以英文版为准。\n\n"


# ---- staging ----


def sources(docs: Path = DOCS) -> Iterator[tuple[Path, str]]:
    """(file, its place on the site) of everything that is copied."""
    for path in sorted(docs.rglob("*")):
        if path.suffix in (".md", ".png", ".svg", ".jpg") and path.is_file():
            yield path, path.relative_to(docs).as_posix()
    for name in PROJECT:
        yield docs.parent / name, f"project/{name}"


def moved(page: str, source: Path, place: str, known: dict[Path, str]) -> str:
    """A page whose links lead where their pages stand on the site, or into the repository."""

    def link(found: re.Match[str]) -> str:
        target, anchor = found[2], found[3] or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return found[0]
        there = (source.parent / target).resolve()
        if there.is_dir() and there / "README.md" in known:
            there = there / "README.md"
        if there in known:
            to = os.path.relpath(known[there], Path(place).parent)
        else:
            to = REPOSITORY + os.path.relpath(there, ROOT)
        return f"{found[1]}{to}{anchor}{found[4]}"

    pieces, end = [], 0
    for code in FENCED.finditer(page):  # what is code has no links
        pieces += [LINK.sub(link, page[end:code.start()]), code[0]]
        end = code.end()
    return "".join([*pieces, LINK.sub(link, page[end:])])


def stage(to: Path) -> list[Any]:
    """Write all pages into a folder; their navigation as mkdocs has it."""
    shutil.rmtree(to, ignore_errors=True)
    files = list(sources())
    known = {path.resolve(): place for path, place in files}
    behind = {twin.page: twin for twin in twins()}
    for path, place in files:
        target = to / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".md":
            shutil.copyfile(path, target)
            continue
        _, page = front_matter(path.read_text(encoding="utf-8"))
        if path in behind:
            heading, _, rest = page.partition("\n")
            page = f"{heading}\n\n{banner(behind[path])}{rest.lstrip()}"
        target.write_text(moved(page, path, place, known), encoding="utf-8")
    commands(to / "commands")
    reference(to / "reference.md")
    if not (to / "zh" / "README.md").is_file():
        (to / "zh").mkdir(exist_ok=True)
        lines = [f"- [{title(twin.page)}]({twin.page.relative_to(DOCS / 'zh').as_posix()})" for twin in behind.values()]
        (to / "zh" / "README.md").write_text("# 中文文档\n\n其余页面目前只有英文版。\n\n" + "\n".join(lines) + "\n",
                                             encoding="utf-8")
    return navigation(to)


def commands(folder: Path) -> None:
    """A page a command, from --help."""
    sys.path.insert(0, str(DOCS))
    import manual

    folder.mkdir(parents=True, exist_ok=True)
    for name, command in manual.commands():
        (folder / manual.file_of(name)).write_text(manual.markdown(name, command), encoding="utf-8")


def reference(page: Path) -> None:
    """What `import llmkit` has, from docstrings."""
    import llmkit

    places = [f"{function.__module__}.{function.__qualname__}" for function in
              (getattr(llmkit, name) for name in llmkit.__all__)]
    page.write_text("# Python reference\n\nWhat `import llmkit` has; [python.md](python.md) shows it at work.\n\n"
                    + "\n\n".join(f"::: {place}" for place in places) + "\n", encoding="utf-8")


def title(page: Path) -> str:
    """A page's first heading."""
    _, text = front_matter(page.read_text(encoding="utf-8"))
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1].strip() if found else page.stem


def navigation(pages: Path) -> list[Any]:
    """The site's contents, from what is there: pages by their sections, objectives, commands, the book, Chinese."""
    rest = {path.stem for path in pages.glob("*.md")}
    nav: list[Any] = []
    for section, names in SECTIONS.items():
        here = [name for name in names if name in rest]
        nav.append({section: [f"{name}.md" for name in here]})
        rest -= set(here)
    nav[4]["Python"].append("reference.md")
    nav.append({"Objectives": below(pages, "objectives")})
    nav.append({"Commands": below(pages, "commands", "llmkit.md")})
    if (pages / "book" / "en").is_dir():
        nav.append({"Book": ["book/README.md", *below(pages, "book/en")]})
    chinese: list[Any] = below(pages, "zh")
    if (pages / "book" / "zh").is_dir():
        chinese.append({"书": below(pages, "book/zh")})
    nav.append({"中文": chinese})
    more = [f"{name}.md" for name in sorted(rest - {"reference"})]
    nav.append({"Project": [*below(pages, "project"), {"Decisions": below(pages, "decisions")}, *more]})
    return nav


def below(pages: Path, folder: str, first: str = "README.md") -> list[str]:
    """The pages of a folder, the one that opens it first."""
    there = sorted((path.name != first, path.relative_to(pages).as_posix()) for path in (pages / folder).glob("*.md"))
    return [place for _, place in there]


def slug(heading: str, separator: str) -> str:
    """What a link calls a heading, as GitHub does, so that a link is right in both: `A run's folder`, a-runs-folder."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", separator)


def build(pages: Path, site: Path) -> None:
    """mkdocs, in strict mode: a link that leads nowhere ends it."""
    from mkdocs.commands.build import build as made
    from mkdocs.config import load_config

    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")  # mkdocs counts them, and says why

    config = load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(pages), site_dir=str(site), nav=navigation(pages),
                         strict=True)
    config["mdx_configs"]["toc"] = {"slugify": slug, "permalink": True}
    made(config)


def main() -> int:
    os.environ["LLMKIT_LANG"] = "en"
    behind = [twin for twin in twins() if twin.behind]
    for twin in behind:
        now = hash_of(twin.follows.read_text(encoding="utf-8"))
        print(f"{twin.page.relative_to(ROOT)}: follows an older {twin.follows.relative_to(ROOT)}, which is {now} now")
    if "--behind" in sys.argv:
        return 0
    stage(ROOT / "build" / "pages")
    if "--stage" not in sys.argv:
        build(ROOT / "build" / "pages", ROOT / "build" / "site")
        print("build/site/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
