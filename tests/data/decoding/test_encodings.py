"""A file that isn't UTF-8 is told which encoding it has, by the line as it would read; never latin-1."""

from pathlib import Path

import pytest

from llmkit.data.decoding.alphabets import coverage
from llmkit.data.decoding.encodings import best, weight, wide
from llmkit.data.sources import open_source
from llmkit.recipe import Source
from llmkit.system.errors import DataError

SIMPLIFIED = "清晨的港口很安静，雾还没有来。\n没有人记得是谁把旧桥漆成绿色。\n"
TRADITIONAL = "清晨的港口很安靜，霧還沒有來。\n麵包師賣給鐘錶匠九個麵包。\n"
GERMAN = "Der Weg führt über die Straße.\nNebel kam später.\n"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(name: str, content: bytes, **options: str) -> str:
    Path(name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(open_source(Source(name, **options)).documents())
    return str(caught.value)


@pytest.mark.parametrize(("text", "encoding"), [
    (SIMPLIFIED, "gb18030"), ("坏", "gb18030"), ("text,label\n今天天气不错,正面\n", "gb18030"),
    (TRADITIONAL, "big5"), ("台灣的天氣", "big5"), ("我喜歡這部電影，演員很好", "big5"),
    ("港はとても静かだった。", "shift_jis"), ("東京都港区", "shift_jis"), ("パン屋は九個のパンを売った。", "euc_jp"),
    ("항구는 아주 조용했다.", "euc_kr"), ("좋아요", "euc_kr"),
    (GERMAN, "cp1252"), ("café", "cp1252"), ("L’été était très chaud.", "cp1252"),
    ("Ángel comió piñas. ¿Qué?", "cp1252"),
    ("В гавани было тихо.", "cp1251"), ("В гавани было тихо до тумана.", "koi8_r"),
])
@pytest.mark.parametrize("times", [1, 40])
def test_the_encoding_is_the_one_whose_characters_are_usual(text: str, encoding: str, times: int) -> None:
    lines = [line for line in (f"{text}\n" * times).encode(encoding).split(b"\n") if not line.isascii()]
    assert best(lines, "utf-8") == encoding


def test_gb18030_reads_big5_but_isnt_believed() -> None:
    assert TRADITIONAL.encode("big5").decode("gb18030", "replace").count("\ufffd") < 3
    assert best(TRADITIONAL.encode("big5").split(b"\n")) == "big5"


@pytest.mark.parametrize(("text", "encodings"), [
    ("Утром в гавани было очень тихо, и никто не помнил, кто покрасил старый мост.", "cp1251 koi8_r iso8859_5 cp866"),
    ("Привет, мир!", "cp1251 koi8_r iso8859_5 cp866"),
    ("Вранці в гавані було дуже тихо, і ніхто не пам'ятав, хто пофарбував міст.", "cp1251 iso8859_5"),
    ("Сутринта в пристанището беше много тихо и никой не помнеше кой е боядисал моста.", "cp1251"),
    ("Ујутру је у луци било веома тихо и нико се није сећао ко је офарбао стари мост.", "cp1251"),
    ("Rano w porcie było cicho i nikt nie pamiętał, kto pomalował most. Źródło żółte.", "cp1250 iso8859_2"),
    ("Zażółć gęślą jaźń", "cp1250 iso8859_2"),
    ("Ráno bylo v přístavu velmi ticho a nikdo si nepamatoval, kdo natřel starý most.", "cp1250 iso8859_2"),
    ("Ráno bolo v prístave veľmi ticho a nikto si nepamätal, kto natrel starý most.", "cp1250 iso8859_2"),
    ("Reggel a kikötőben nagyon csend volt, és senki sem emlékezett, ki festette. Fű.", "cp1250 iso8859_2"),
    ("Ujutro je u luci bilo tiho i nitko se nije sjećao tko je obojio most, kaže čovjek.", "cp1250 iso8859_2"),
    ("Dimineaţa în port era linişte şi nimeni nu îşi amintea cine a vopsit podul.", "cp1250 iso8859_2"),
    ("Sabah limanda çok sessizlik vardı ve kimse köprüyü kimin boyadığını hatırlamıyordu.", "cp1254"),
    ("Ryte uoste buvo labai tylu ir niekas neatsiminė, kas nudažė seną tiltą. Šuo ėjo.", "cp1257"),
    ("No rīta ostā bija ļoti kluss, un neviens neatcerējās, kas nokrāsoja veco tiltu zaļu.", "cp1257"),
    ("Το πρωί στο λιμάνι ήταν πολύ ήσυχα και κανείς δεν θυμόταν ποιος έβαψε τη γέφυρα.", "cp1253 iso8859_7"),
    ("Άλλη μέρα", "cp1253 iso8859_7"),
    ("בבוקר היה שקט מאוד בנמל ואף אחד לא זכר מי צבע את הגשר הישן בירוק.", "cp1255"), ("שלום עולם", "cp1255"),
    ("הנמל היה שקט", "cp1255 iso8859_8"),
    ("في الصباح كان الميناء هادئا جدا ولم يتذكر أحد من الذي صبغ الجسر القديم.", "cp1256 iso8859_6"),
    ("مرحبا بالعالم", "cp1256 iso8859_6"),
    ("ตอนเช้าท่าเรือเงียบมาก และไม่มีใครจำได้ว่าใครทาสีสะพานเก่าเป็นสีเขียว", "cp874 tis_620"),
    ("สวัสดีชาวโลก", "cp874"),
    ("아침에 항구는 아주 조용했고 누가 낡은 다리를 칠했는지 아무도 기억하지 못했다.", "euc_kr cp949"),
    ("안녕하세요", "euc_kr"), ("똠방각하는 펲시를 먹었다", "cp949"),
    ("Où ça, naïf cœur? Le port était calme, et c'était très beau.", "cp1252"),
    ("S'il vous plaît", "cp1252"), ("Não são ações.", "cp1252"), ("La città è così, perché è più vecchia.", "cp1252"),
    ("På morgonen mindes ingen vem som målade bron grön.", "cp1252"), ("Æble på havnen, grøn.", "cp1252"),
    ("Um morguninn var mjög hljótt í höfninni og enginn mundi hver málaði brúna. Það þarf.", "cp1252"),
    ("Hommikul oli sadamas väga vaikne ja keegi ei mäletanud, kes silla värvis. Õhtu.", "cp1252"),
])
def test_files_of_other_countries_read_as_they_were_written(text: str, encodings: str) -> None:
    for encoding in encodings.split():
        content = text.encode(encoding)
        found = best([content], "utf-8")
        assert found is not None
        assert content.decode(found) == text, (encoding, found)


@pytest.mark.parametrize(("encoding", "text"), [
    ("cp1251", "оеаинт"), ("cp1253", "ποιος"), ("cp1255", "שלום"), ("cp1256", "السلام"), ("cp874", "กา"),
])
def test_a_word_of_usual_letters_has_full_weight(encoding: str, text: str) -> None:
    assert weight(text, encoding) == pytest.approx(1.0, abs=0.13)


@pytest.mark.parametrize(("text", "encoding", "why"), [
    ("םשלו", "cp1255", "a final letter begins the word"), ("λογοσ", "cp1253", "a sigma of the middle ends it"),
    ("ςοφος", "cp1253", "a sigma of the end begins it"), ("ةسيارا", "cp1256", "a final letter begins the word"),
    ("้กา", "cp874", "a mark stands on no letter"), ("приВет", "cp1251", "a capital within a word"),
    ("приvet", "cp1251", "two alphabets in a word"),
])
def test_letters_out_of_place_count_less(text: str, encoding: str, why: str) -> None:
    assert weight(text, encoding) < 0.9, why


def test_one_language_has_all_letters_of_a_text() -> None:
    assert coverage("żółć", "cp1250") == 1.0
    assert coverage("żółć".encode("cp1250").decode("cp1252"), "cp1252") == pytest.approx(2 / 3)  # ¿ó³æ
    assert coverage("plain", "cp1254") == 1.0
    assert coverage("ÇIĞIR", "cp1254") == 1.0
    assert coverage("îâïç", "cp1252") == pytest.approx(0.9)  # longer French has an é


@pytest.mark.parametrize("content", [b"\xff", b"a \x81 b", bytes(range(128, 256)), b"\x9a\xd7\x9d\xf7" * 5])
def test_what_reads_well_in_none_is_called_nothing(content: bytes) -> None:
    assert best([content]) is None


@pytest.mark.parametrize(("name", "content", "encoding", "line"), [
    ("t.txt", SIMPLIFIED, "gb18030", "清晨的港口很安静，雾还没有来。"),
    ("t.csv", f"text\n{TRADITIONAL}", "big5", "清晨的港口很安靜，霧還沒有來。"),
    ("t.jsonl", '{"text": "港はとても静かだった。"}\n', "shift_jis", '{"text": "港はとても静かだった。"}'),
    ("t.json", '[{"text": "В гавани было тихо."}]', "cp1251", '[{"text": "В гавани было тихо."}]'),
    ("t.tsv", f"text\n{GERMAN}", "cp1252", "Der Weg führt über die Straße."),
])
def test_the_hint_shows_the_line_as_it_would_read(name: str, content: str, encoding: str, line: str) -> None:
    hint = (f"it looks like {encoding}, in which this line reads {line!r}; if that is right, say so: "
            f"{{source: {name}, encoding: {encoding}}}, or save the file as UTF-8.")
    assert refused(name, content.encode(encoding)).endswith(hint)


@pytest.mark.parametrize("named", ["gbk", "shift_jis", "ascii"])
def test_a_utf_8_file_that_is_read_otherwise_is_told_so(named: str) -> None:
    assert refused("t.txt", (SIMPLIFIED * 20).encode(), encoding=named).endswith("encoding: utf-8}.")


def test_one_strange_line_among_others_is_told_from_a_file_of_another_encoding() -> None:
    content = (SIMPLIFIED * 9).encode() + "这一行是另一种编码\n".encode("gbk") + (SIMPLIFIED * 9).encode()
    assert refused("t.txt", content).endswith(
        "; in gb18030 this line reads '这一行是另一种编码', but others are utf-8: mend it, or leave such lines out by "
        "on_bad_row: skip.")
    content = GERMAN.encode() * 9 + b"f\xfcr alle\n"
    assert "in cp1252 this line reads 'für alle', but others are utf-8" in refused("t.txt", content)


@pytest.mark.parametrize(("text", "encoding"), [
    ("The harbour was quiet.\n", "utf-16-le"), ("The harbour was quiet.\n", "utf-16-be"), (SIMPLIFIED, "utf-16-le"),
])
def test_two_bytes_a_character_are_seen_without_their_mark(text: str, encoding: str) -> None:
    assert refused("t.txt", text.encode(encoding)) == (
        f"t.txt:1: has two bytes a character, as {encoding.upper()}; say in the recipe: "
        f"{{source: t.txt, encoding: {encoding}}}.")


@pytest.mark.parametrize("text", ["The harbour was quiet.", SIMPLIFIED, "a\0b and more of it, then a long line"])
def test_other_text_has_no_two_bytes_a_character(text: str) -> None:
    assert wide(text.encode()) is None
    assert wide(SIMPLIFIED.encode("gb18030")) is None and wide(TRADITIONAL.encode("big5")) is None


def test_the_encoding_of_a_long_line_is_told_soon() -> None:
    assert "it looks like gb18030" in refused("t.txt", (SIMPLIFIED.replace("\n", "") * 50_000).encode("gb18030"))
