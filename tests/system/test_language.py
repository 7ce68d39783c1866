"""Messages in Chinese: only what the code says, whole or not at all, and never what a program reads."""

import ast
import errno
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from pydantic_core._pydantic_core import list_all_errors
from typer.main import get_command

from llmkit.cli import app, main, whole
from llmkit.cli.preparing import plan
from llmkit.system import language, report, terminal
from llmkit.system.language import FOLDER, HOLE, Utterance, is_prose, read, translate

CATALOGUES = sorted(FOLDER.glob("*.po"))
CONVERSION = re.compile(r"%(?:[-+#0]*[\d.]*[a-z])")
"""Where a log line has a value."""
NAMED_HOLE = re.compile(r"\{[a-z_]\w*[^}]*\}")
"""Where str.format puts a value of a sentence whose parts are translated each: it has a name, and how it is written."""
NAMED = re.compile(r"\{\w+(?:!r)?\}")
"""Where str.format puts one."""


def texts(path: Path) -> Iterator[str]:
    """What a module may say: its strings and f-strings, joined by + or not, a hole for each value."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp) and (pieces := written(node)) is not None:
            yield numbered(pieces)
            if None not in pieces and "%" in (pieces[0] or ""):
                yield holed([piece.replace("%%", "%") for piece in CONVERSION.split(pieces[0] or "")])
            if None not in pieces and "{" in (pieces[0] or ""):
                yield holed(NAMED.split(pieces[0] or ""))  # _("No such command {name!r}.").format(…)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "many" and isinstance(node.args[1], ast.Constant):
            yield from (f"{{0}} {node.args[1].value}{s}" for s in ("", "s"))
        if isinstance(node, ast.FunctionDef) and (help_ := ast.get_docstring(node)):
            yield from (" ".join(paragraph.split()) for paragraph in help_.split("\n\n"))


def written(node: ast.AST) -> list[str | None] | None:
    """A string in pieces, None where a value stands; None where it is no string."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return [piece.value if isinstance(piece, ast.Constant) else None for piece in node.values]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = written(node.left), written(node.right)
        return None if left is None and right is None else (left or [None]) + (right or [None])
    return None


def holed(pieces: list[str]) -> str:
    """["no ", " is called ", ""] -> "no {0} is called {1}"."""
    return numbered([each for piece in pieces for each in (piece, None)][:-1])


def numbered(pieces: list[str | None]) -> str:
    """["no ", None, " is called ", None] -> "no {0} is called {1}"."""
    out, number = "", 0
    for piece in pieces:
        out += f"{{{number}}}" if piece is None else piece
        number += piece is None
    return out


@pytest.fixture(scope="module")
def said() -> set[str]:
    """All that may be said: by llmkit, by typer, by pydantic of a value, and by the system of a file."""
    its_own = Path(typer.__file__).parent
    modules = [*Path(language.__file__).parents[1].rglob("*.py"), *its_own.glob("**/[cdef]*.py"),
               its_own / "_click" / "parser.py"]
    found = {line.strip() for path in modules for text in texts(path) for line in text.split("\n")}
    for error in list_all_errors():
        found.add(holed(NAMED.split(re.sub("^(Input|String) ", "", error["message_template_python"]))))
    return found | {os.strerror(number) for number in errno.errorcode}


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_each_entry_is_said_somewhere(path: Path, said: set[str]) -> None:
    """What the code doesn't say any more has no translation either."""
    assert [english for english in read(path) if english.strip() not in said] == []


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_a_translation_has_the_holes_of_its_english(path: Path) -> None:
    for english, translation in read(path).items():
        assert sorted(number for number, _ in HOLE.findall(english)) == sorted(
            number for number, _ in HOLE.findall(translation)), english
        assert sorted(NAMED_HOLE.findall(english)) == sorted(NAMED_HOLE.findall(translation)), english
        assert not re.search(r"\{\d+[!~#]\}", english), english


def test_chinese_is_written_in_chinese() -> None:
    entries = read(FOLDER / "zh.po")
    assert len(entries) > 600
    for english, translation in entries.items():
        words = HOLE.sub("", translation)
        assert re.search(r"[一-鿿]", words) or re.match("--output|ok", english), english
        assert not is_prose(re.sub(r"'[^']*'|`[^`]*`|--?\S+", "", words)), translation


SENTENCES = {
    "tiny: causal_lm with full, 467,968 of 467,968 parameters train":
        "tiny: 用 full 训练 causal_lm，467,968 个参数中有 467,968 个参与训练",
    "my file.yaml:3: objective: no objective is called 'maskd_lm'. Did you mean 'masked_lm'?":
        "my file.yaml:3: objective: 没有名为 'maskd_lm' 的训练目标（objective）。您是不是想写 'masked_lm'？",
    "r.yaml:3: training.max_steps: -5 should be greater than 0.": "r.yaml:3: training.max_steps: -5 应当大于 0。",
    'r.yaml:3: data.packing: "a b" should be \'auto\' or \'none\'.':
        "r.yaml:3: data.packing: \"a b\" 应当是 'auto' 或 'none'。",
    "r.csv: no column is called 'text' or 'cat or dog'; there is 'a'.":
        "r.csv: 没有名为 'text' 或 'cat or dog' 的列；现有的列：'a'。",
    "读.txt: can't be read: Permission denied.": "读.txt: 无法读取：没有权限。",
    "compile false: on a CPU compiling takes minutes and rarely saves them":
        "compile false: 在 CPU 上编译要花几分钟，很少能省回来",
    "step 12 (40 %)  loss 2.5  00:12 left": "步 12（40 %）  loss 2.5  00:12 剩余",
    "3,388 tokens to train on in 154 rows, 351 held out in 17":
        "训练用 3,388 个 token，共 154 行；留出 351 个 token，共 17 行",
    "unigram entropy                   3.1511   what word frequencies alone would give":
        "unigram entropy                   3.1511   只凭词频能达到的值",
    "the text was cut at 5 tokens, within a sentence; --max-new-tokens 10 lets the model write more":
        "文本在 5 个 token 处截断，句子未完；用 --max-new-tokens 10 可以让模型多写一些",
    "No such command 'nix'. See llmkit --help.": "没有命令 'nix'。用法见 llmkit --help。",
    "training 00:12, 0 evaluations 00:00, 1 checkpoint 00:03": "训练 00:12，0 次评测 00:00，1 个检查点 00:03",
    "326 tokens, 1.71 passes over the data": "326 个 token，把数据过 1.71 遍",
    "4,467 at work for a token": "每个 token 用到其中 4,467 个",
    "2; torch uses 1 thread": "2；torch 使用 1 个线程",
    "tag 'B-PER' of 'Ada', probability 0.9312": "'Ada' 的标记 'B-PER'，概率 0.9312",
    "nats lost where it is hidden by the mask token": "用 mask token 遮住时损失的对数概率（nats）",
    "bidirectional, 3 documents apart: each row looks at the columns, ■ sees, · doesn't":
        "双向（bidirectional），3 篇文档互不可见：每一行看各列，■ 看得到，· 看不到",
    "--layer 9: there are 2, numbered from 1.": "--layer 9: 共有 2 个，从 1 编号。",
    "a.txt: words with tags behind a slash, a sentence a line; 3 numbers of articles before a line are passed over":
        "a.txt: 词和标记用斜杠分开，每行一句；略去 3 个行首的文章编号",
    "a.docx: is a Word document, not text; save it as plain text, in UTF-8.":
        "a.docx: 这是一个 Word 文档，不是文本；请用 UTF-8 存成纯文本。",
}


@pytest.mark.parametrize("english", SENTENCES)
def test_a_sentence_keeps_its_names_and_values(english: str) -> None:
    assert translate(english, "zh") == SENTENCES[english]


def test_the_first_line_of_a_plan_is_put_together_in_either_language(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"recipe": "b", "learning": "masked_lm", "tuning": "full", "backbone": "bert-mini", "teacher": "runs/large",
             "optimizer": "adamw", "learning_rate": 5e-4, "precision": "bf16", "compile": True, "device": "cpu",
             "processes": 2, "threads": 4}
    plain = {"teacher": None, "compile": False, "processes": 1, "threads": 1}
    assert plan.headline(found) == ("b: masked_lm with full, bert-mini, taught by runs/large, adamw at 0.0005, bf16, "
                                    "compiled, 2 processes of 4 threads")
    assert plan.headline(found | plain) == "b: masked_lm with full, bert-mini, adamw at 0.0005, bf16, 1 thread"
    monkeypatch.setenv("LLMKIT_LANG", "zh")
    assert plan.headline(found, language.exactly) == (
        "b: 用 full 训练 masked_lm，bert-mini，由 runs/large 教，adamw，学习率 0.0005，bf16，编译，"
        "2 个进程，各 4 个线程")
    assert plan.headline(found | plain | {"device": "cuda"}, language.exactly) == (
        "b: 用 full 训练 masked_lm，bert-mini，adamw，学习率 0.0005，bf16，GPU")


def test_a_hole_for_a_number_takes_nothing_else() -> None:
    entry = {"{0} rows": "{0#} 行"}
    for text, said in (("12 rows", "12 行"), ("1,200 rows", "1,200 行"), ("5 M rows", "5 M 行"), ("the rows", None)):
        looked = language.Translation("zh")
        looked.catalogue = language.Catalogue({}, tuple(Utterance(*one) for one in entry.items()))
        assert looked.entry(text, 0) == said
    assert translate("unknown tokens", "zh") == "未知 token 数"  # it was `未知 个 token`, by `{0} tokens`


@pytest.mark.parametrize("english", [
    "a sentence that nobody has translated yet", "r.yaml:3: a sentence that nobody has translated yet.",
    "r.csv: can't be read: the disk of this machine is broken.",  # its reason has no translation
    "no objective is called 'a'. Nobody has translated this.", "loss                    5.7271    5.0582", "",
    "the hub's model", "今天天气很好"])
def test_what_has_no_translation_stays_whole(english: str) -> None:
    assert translate(english, "zh") == english


def test_a_long_line_of_many_sentences_takes_no_time() -> None:
    """The entries that are looked at are counted, whatever a line is made of."""
    line = "; ".join(["it goes on: and on. And more: of that"] * 60)
    looked = language.Translation("zh")
    assert looked.sentence(line) is None and looked.left >= 0
    assert translate(line * 100, "zh") == line * 100


def test_a_value_stands_where_the_translation_puts_it() -> None:
    swapped = Utterance("no row {0} in {1}", "{1} 里没有第 {0} 行")
    assert list(swapped.divided("no row 7 in a.csv")) == [["7", "a.csv"]]
    assert list(swapped.divided("no row 7 in b in a")) == [["7", "b in a"], ["7 in b", "a"]]
    assert list(swapped.divided("no row 7")) == []


@pytest.mark.parametrize(("variables", "chosen"), [
    ({"LLMKIT_LANG": "zh"}, "zh"), ({"LLMKIT_LANG": "zh_CN.UTF-8"}, "zh"), ({"LLMKIT_LANG": "ZH-cn"}, "zh"),
    ({"LLMKIT_LANG": "en", "LANG": "zh_CN.UTF-8"}, "en"), ({"LLMKIT_LANG": "fr", "LANG": "zh_CN.UTF-8"}, "en"),
    ({"LANG": "zh_CN.UTF-8"}, "zh"), ({"LC_MESSAGES": "zh_CN", "LANG": "de_DE"}, "zh"),
    ({"LC_ALL": "C.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"), ({"LC_ALL": "POSIX", "LANGUAGE": "zh"}, "en"),
    ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en:zh"}, "en"), ({"LANG": "de_DE.UTF-8"}, "en"), ({}, "en")])
def test_the_variable_and_then_the_locale_say_the_language(
    variables: dict[str, str], chosen: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LLMKIT_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language.chosen() == chosen


def test_a_stream_that_has_no_chinese_letters_gets_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMKIT_LANG", "zh")
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert language.chosen() == "en"
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="gb18030"))
    assert language.chosen() == "zh"


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMKIT_LANG", "zh")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize(("words", "status", "line"), [
    (["pretrain", "nix.yaml"], 2, "'nix.yaml' 处没有配方（recipe），也没有这个名字的内置配方。"),
    (["generate", "a", "--model", "nix/nix"], 2, "没有名为 'nix/nix' 的模型：没有这个文件夹，"
     "目录（catalogue）里没有这个名字，而且LLMKIT_OFFLINE 关闭了 hub 和软件包仓库。"),
    (["pretrain", "bert_mlm", "--set", "training.max_steps=-1"], 2, "--set training.max_steps: -1 应当大于 0。"),
    (["pretrain", "bert_mlm", "--set", "data.train=nix.txt"], 3, "--set data.train: nix.txt: 没有这个文件或文件夹。"),
    (["generate"], 2, "需要 PROMPT：请给出 `llmkit generate 'Once upon a time'` 或 --input FILE 之一。"),
    ([], 2, "需要一个命令，例如 `llmkit pretrain RECIPE`。"),
    (["pretrain"], 2, "缺少参数 'RECIPE'。用法见 llmkit pretrain --help。"),
    (["pretrain", "--nix"], 2, "没有选项：--nix。用法见 llmkit pretrain --help。"),
    (["pretrain", "a", "b"], 2, "多出了无法识别的参数（b）。用法见 llmkit pretrain --help。"),
    (["nix"], 2, "没有命令 'nix'。用法见 llmkit --help。")])
def test_an_error_keeps_its_prefix_and_its_status(
    words: list[str], status: int, line: str, capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words) == status
    last = capsys.readouterr().err.rstrip("\n").rpartition("\n")[2]
    assert last.startswith(f"llmkit: error: {line[:-1]}")


@pytest.mark.usefixtures("chinese")
def test_json_is_the_same_in_every_language(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["tasks", "--json"]) == 0
    there = capsys.readouterr().out
    monkeypatch.setenv("LLMKIT_LANG", "en")
    assert main(["tasks", "--json"]) == 0
    assert capsys.readouterr().out == there and json.loads(there)


@pytest.mark.usefixtures("chinese")
def test_log_lines_are_translated_and_models_words_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("llmkit", logging.INFO, "", 0, "going on from %s", ("runs/a",), None)
    assert terminal.Lines("%(message)s").format(record) == "从 runs/a 继续"
    terminal.err("going on from runs/a")
    terminal.out("going on from runs/a")  # what a model writes goes there
    report.figures([("data", "3 rows", "about 30 tokens; 2 rows held out")])
    shown = capsys.readouterr()
    assert shown.err == "从 runs/a 继续\n"
    assert shown.out.startswith("going on from runs/a\n")
    assert shown.out.split("\n")[1].split() == ["数据", "3", "行", "约30", "个", "token；留出", "2", "行"]


@pytest.mark.usefixtures("chinese")
def test_a_language_that_there_is_not_is_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLMKIT_LANG", "fr")
    main(["tasks", "--json"])
    assert capsys.readouterr().err == "llmkit: LLMKIT_LANG=fr: messages are in en and zh; English is used.\n"


def test_every_command_says_in_chinese_what_it_does() -> None:
    """The first paragraph of its help, as the list of commands shows it."""
    def below(command: typer.core.TyperCommand, name: str) -> Iterator[tuple[str, str]]:
        yield name, " ".join((command.help or "").partition("\n\n")[0].split())
        for inner, each in getattr(command, "commands", {}).items():
            yield from below(each, f"{name} {inner}")

    known = language.catalogue("zh").plain
    english = {name: text for name, text in below(whole(get_command(app)), "llmkit") if text not in known}
    assert english == {}


@pytest.mark.usefixtures("chinese")
def test_help_is_in_chinese(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "按配方在文本上训练模型：从头训练或继续预训练。" in shown and "随机种子（seed）。" in shown
    assert "Train a model" not in shown and "--output-dir" in shown
    assert shown.startswith("用法：llmkit pretrain [OPTIONS]")
    assert "参数：" in shown and "选项：" in shown and "[必填]" in shown and "[默认：auto]" in shown
    assert re.search(r"-h, --help +显示本页后结束。", shown)
    assert not re.search("Usage|Options|Arguments|Show this|default|required", shown)


def test_help_in_english_is_typers_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: llmkit pretrain") and "Show this message and exit." in shown


def test_a_page_of_wide_letters_is_cut_by_columns() -> None:
    assert terminal.folded("按配方（recipe）在文本上训练模型，max_steps，再见。", 12) == [
        "按配方", "（recipe）在", "文本上训练模", "型，", "max_steps，", "再见。"]
    assert terminal.folded("a b  c", 80) == ["a b  c"]


@pytest.mark.parametrize("text", ['msgid "a"\nmsgstr "b"\n"c"\nmsgid "a"\nmsgstr "d"', "msgid a", "hello"])
def test_a_broken_catalogue_is_told_with_its_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "xx.po"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"xx\.po:\d"):
        read(path)


def test_a_catalogue_is_read_as_gettext_has_it(tmp_path: Path) -> None:
    path = tmp_path / "xx.po"
    path.write_text('# a comment\nmsgid ""\nmsgstr "Language: xx\\n"\n\nmsgid "one "\n"and two"\nmsgstr "\\"1\\" "\n'
                    '"2"\n\nmsgid "not yet"\nmsgstr ""\n')
    assert read(path) == {"one and two": '"1" 2'}
