"""The page, in a real browser: headless Chromium through Playwright."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any
from urllib.request import Request, urlopen

import pytest
from browsing import NONE, program
from served import GREETING, Server

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright isn't installed: pip install 'llmkit-train[dev]'")
expect = sync_api.expect
expect.set_options(timeout=30_000)
if program() is None:
    pytest.skip(NONE, allow_module_level=True)

KEY = "sesame"


@pytest.fixture(scope="module")
def url(chatty: Path, endless: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that wants a key; its models know a greeting, go on for as long as they may, and only embed."""
    said = tmp_path_factory.mktemp("server") / "said.log"
    server = Server([str(encoder), str(chatty), str(endless), "--api-key", KEY, "--max-new-tokens", "1500"], said)
    yield server.url
    server.stop()


def writing(url: str) -> float:
    """Texts that the server is writing."""
    request = Request(f"{url}/metrics", headers={"Authorization": f"Bearer {KEY}"})
    (count,) = re.findall(r"^llmkit_texts_writing (\S+)$", urlopen(request).read().decode(), re.MULTILINE)
    return float(count)


@pytest.fixture
def visit(visited: Any) -> Any:
    """Open the page as one who has a key."""
    def visit(url: str, key: str = KEY, **how: Any) -> Any:
        script = f"sessionStorage.setItem('llmkit.key', '{key}')" if key else ""
        return visited(url, script, **{"viewport": {"width": 1000, "height": 700}, **how})

    return visit


def ask(page: Any, text: str, model: str | None = None) -> None:
    expect(page.locator("#model")).to_be_enabled()
    if model is not None:
        page.locator("#model").select_option(model)
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def scripted(page: Any, text: str, status: int = 200) -> None:
    """The next answers are this text, at once, or an error of this status."""
    events = [{"choices": [{"delta": {"content": text}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    if status != 200:
        body = json.dumps({"error": {"message": text}})
    page.route("**/v1/chat/completions", lambda route: route.fulfill(
        status=status, body=body, content_type="text/event-stream" if status == 200 else "application/json"))


def asking(page: Any, act: Any) -> dict[str, Any]:
    """The body of the request that an act sends."""
    with page.expect_request("**/v1/chat/completions") as sent:
        act()
    return dict(sent.value.post_data_json)


def test_an_answer_streams_in_and_outlives_a_reload(visit, url):
    page = visit(url)
    text = page.locator(".turn:last-child .text")
    ask(page, "hi")
    expect(text).to_have_text(GREETING)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Max tokens").fill("300")
    ask(page, "How far can you go?", "endless")
    expect(text).not_to_be_empty()
    early = text.text_content()
    expect(page.get_by_label("Regenerate")).to_be_visible()
    late = text.text_content()
    assert len(late) > len(early)
    expect(page.locator(".note")).to_have_text("Cut off at the limit of tokens.")
    expect(page.locator(".foot").last).to_contain_text("endless · 300 tokens")
    page.reload()
    assert page.locator(".question").all_inner_texts() == ["hi", "How far can you go?"]
    assert page.locator(".text").all_text_contents() == [GREETING, late]
    expect(page.get_by_label("Model")).to_have_value("endless")
    assert page.get_by_label("Max tokens").input_value() == "300"


def test_stop_ends_the_answer_and_frees_its_place(visit, url):
    page = visit(url)
    for stop in (lambda: page.get_by_label("Stop").click(), lambda: page.keyboard.press("Escape")):
        ask(page, "Go on.", "endless")
        expect(page.locator(".turn:last-child .text")).not_to_be_empty()
        assert writing(url) == 1
        stop()
        expect(page.locator(".turn:last-child .note")).to_have_text("Stopped.")
        expect(page.get_by_label("Send")).to_be_visible()
        for _ in range(50):
            if writing(url) == 0:
                break
            sleep(0.02)
        assert writing(url) == 0
    page.reload()
    assert page.locator(".note").all_inner_texts() == ["Stopped.", "Stopped."]


def test_a_reload_in_mid_answer_keeps_what_was_written(visit, url):
    page = visit(url)
    ask(page, "Go on.", "endless")
    expect(page.locator(".answer .text")).not_to_be_empty()
    page.reload()
    expect(page.locator(".answer .text")).not_to_be_empty()
    expect(page.locator(".note")).to_have_text("Stopped.")


def test_enter_sends_but_not_with_shift_nor_while_a_word_is_composed(visit, url):
    page = visit(url)
    scripted(page, "Yes.")
    expect(page.locator("#model")).to_be_enabled()
    page.get_by_label("Your message").press_sequentially("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    for composing in ({"isComposing": True}, {"keyCode": 229}):
        page.get_by_label("Your message").dispatch_event("keydown", {"key": "Enter", **composing})
    assert page.locator(".turn").count() == 0
    page.keyboard.press("Enter")
    expect(page.locator(".question")).to_have_text("one\ntwo")


def test_the_language_is_the_browsers_until_another_is_chosen(visit, url):
    page = visit(url, locale="zh-CN")
    expect(page.get_by_role("heading", name="想问点什么？")).to_be_visible()
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    page.get_by_role("button", name="EN").click()
    expect(page.get_by_role("heading", name="What would you like to ask?")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Settings")).to_be_visible()


def test_both_languages_have_every_sentence(visit, url):
    keys = visit(url).evaluate("""async () => {
        const { WORDS } = await import("./words.js");
        const keys = (words, at) => Object.entries(words).flatMap(([key, word]) =>
            typeof word === "string" ? [at + key + (word.match(/{\\w+}/g) ?? []).sort()] : keys(word, at + key + "."));
        return [keys(WORDS.en, ""), keys(WORDS.zh, "")];
    }""")
    assert keys[0] == keys[1] and len(keys[0]) > 60


def test_a_phone_shows_it_all_without_scrolling_sideways(visit, url):
    page = visit(url, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    scripted(page, "a" * 200 + "\n```python\n" + "b = 1; " * 40 + "\n```\nhttp://" + "c" * 100)
    ask(page, "d" * 200)
    expect(page.get_by_label("Regenerate")).to_be_visible()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Instruction and examples").check()
    for place in ("html", "main", "#settings"):
        assert page.locator(place).evaluate("it => it.scrollWidth - it.clientWidth") == 0, place
    page.get_by_role("button", name="Close").click()
    box = page.get_by_label("Your message").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["y"] + box["height"] <= 640
    for name in ("Settings", "New chat", "Send", "中文"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360, name


def test_a_server_with_a_key_is_asked_with_it(visit, url):
    page = visit(url, key="")
    expect(page.get_by_role("alert")).to_contain_text("This server wants an API key.")
    page.locator("#trouble input").fill("open")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("doesn't accept this API key.")
    page.locator("#trouble input").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Model")).to_have_value("chatty")
    page.reload()
    expect(page.get_by_label("Model")).to_have_value("chatty")
    assert KEY not in page.evaluate("() => JSON.stringify(localStorage)")


def test_models_that_only_embed_are_not_offered(visit, url):
    page = visit(url)
    expect(page.get_by_label("Model")).to_be_enabled()
    assert page.locator("#model option").all_inner_texts() == ["chatty", "endless"]


def test_the_settings_go_with_the_question(visit, url):
    page = visit(url)
    scripted(page, "Hot.")
    page.get_by_label("Model").select_option("endless")
    page.get_by_role("button", name="Settings").click()
    for label, value in {"Temperature": "0.7", "Top-p": "0.9", "Max tokens": "20", "Seed": "3",
                         "System prompt": "Be brief."}.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("Instruction and examples").check()
    page.get_by_role("textbox", name="Instruction").fill("Say the opposite.")
    page.get_by_role("textbox", name="Examples").fill("tall => short\n\nbig\tsmall")
    assert asking(page, lambda: ask(page, "cold")) == {
        "model": "endless", "stream": True, "stream_options": {"include_usage": True},
        "temperature": 0.7, "top_p": 0.9, "max_tokens": 20, "seed": 3,
        "prompting": {"name": "hybrid", "instruction": "Say the opposite.",
                      "examples": [{"text": "tall", "answer": "short"}, {"text": "big", "answer": "small"}],
                      "k": 2, "selection": "first"},
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "cold"}]}
    expect(page.get_by_label("Regenerate")).to_be_visible()
    page.get_by_role("button", name="Reset settings").click()
    assert asking(page, lambda: ask(page, "wet")) == {
        "model": "endless", "stream": True, "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "cold"}, {"role": "assistant", "content": "Hot."},
                     {"role": "user", "content": "wet"}]}


def test_a_setting_that_is_wrong_is_said_and_nothing_is_sent(visit, url):
    page = visit(url)
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("radio", name="Examples", exact=True).check()
    for label, value, sentence in [
        ("Examples", "", "Give at least one example, or choose another prompt mode."),
        ("Examples", "cold => hot\nbig", "Line 2 has no => between input and output."),
        ("Temperature", "3", "Temperature is a number from 0 to 2."),
        ("Top-p", "0", "Top-p is a number above 0 and at most 1."),
        ("Seed", "1.5", "Seed is a whole number from 0."),
    ]:
        field = page.get_by_role("textbox", name=label)
        field.fill(value)
        page.get_by_role("button", name="Close").click()
        ask(page, "Well?")
        expect(field).to_be_focused()
        expect(field).to_have_accessible_description(sentence)
        assert page.locator(".turn").count() == 0 and page.get_by_label("Your message").input_value() == "Well?"
        field.fill("cold => hot" if label == "Examples" else "")


def test_a_models_text_is_text_and_its_code_a_block(visit, url):
    page = visit(url)
    scripted(page, 'Use `a<b>` **now** <img src=x onerror="document.title=1">\n\n```python\nprint("<b>")\n```\nDone.')
    ask(page, "How?")
    expect(page.locator(".answer p").last).to_be_visible()
    assert page.locator(".answer img, .answer b").count() == 0
    assert page.locator(".answer .text > p").all_inner_texts() == [
        'Use a<b> now <img src=x onerror="document.title=1">', "Done."]
    assert page.locator(".answer p code").inner_text() == "a<b>"
    assert page.locator(".answer pre").inner_text() == 'print("<b>")'


def test_an_error_is_a_sentence_and_can_be_tried_again(visit, url):
    page = visit(url)
    for turn, (status, sentence) in enumerate({
        429: "The server is busy. Try again in a moment.",
        400: "The server refused: the prompt is too long",
        503: "The server failed: the prompt is too long",
        401: "The server doesn't accept this API key.",
    }.items()):
        scripted(page, "the prompt is too long", status)
        ask(page, "Well?")
        expect(page.locator(".trouble p")).to_have_text(sentence)
        scripted(page, "Well.")
        if status == 401:
            page.locator(".trouble input").fill(KEY)
            page.keyboard.press("Enter")
        else:
            page.get_by_role("button", name="Try again").click()
        expect(page.locator(".answer .text").nth(turn)).to_have_text("Well.")
        assert page.locator(".trouble").count() == 0 and page.locator(".turn").count() == turn + 1


def test_an_answer_that_breaks_off_says_so(visit, url):
    page = visit(url)
    page.route("**/v1/chat/completions", lambda route: route.fulfill(
        content_type="text/event-stream", body='data: {"choices": [{"delta": {"content": "So"}}]}\n\n'))
    ask(page, "Well?")
    expect(page.locator(".answer .text")).to_have_text("So")
    expect(page.locator(".trouble p")).to_have_text("The connection broke off in mid-answer.")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".trouble p")).to_have_text("The server can't be reached. Is it still running?")


def test_an_answer_is_written_again_copied_edited_and_cleared(visit, url):
    page = visit(url, permissions=["clipboard-read", "clipboard-write"])
    scripted(page, "One.")
    ask(page, "Say a number")
    page.get_by_label("Copy").click()
    expect(page.locator("#status")).to_have_text("Copied")
    assert page.evaluate("() => navigator.clipboard.readText()") == "One."
    scripted(page, "Two.")
    assert asking(page, page.get_by_label("Regenerate").click)["messages"] == [
        {"role": "user", "content": "Say a number"}]
    expect(page.locator(".answer .text")).to_have_text("Two.")
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".turn").count() == 0
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".answer .text")).to_have_text("Two.")
    page.get_by_label("Edit").click()
    assert page.get_by_label("Your message").input_value() == "Say a number" and page.locator(".turn").count() == 0
