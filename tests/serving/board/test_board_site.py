"""The board's application, without a network: who may ask, what is told, and what a click starts."""

import asyncio
import json
import re
from pathlib import Path
from urllib.parse import urlencode

import pytest

from llmkit.serving.board.children import Children, Talk
from llmkit.serving.board.forwarding import forward
from llmkit.serving.board.shelf import Shelf
from llmkit.serving.board.site import build
from llmkit.serving.board.starting import NAMES
from llmkit.serving.metrics import Metrics
from llmkit.serving.network.limits import Limits
from llmkit.serving.protocol import ApiError

OLD = Path(__file__).parents[2] / "older" / "0.1.0"
EVIL = "<script>document.title = 'run'</script>"
JSON = {"content-type": "application/json"}


class Recorded(Children):
    """Children that say what they were asked for, and open nothing."""

    def __init__(self, says="{}"):
        super().__init__()
        self.says, self.asked = says, []

    async def once(self, words, given=""):
        self.asked.append((list(words), given))
        return self.says

    async def open(self, run, name, folder):
        self.asked.append((run, name, folder))
        self.talk = Talk(run, None, None, port=1)

    async def close(self):
        self.talk = None


def asked(folder, path, body=None, children=None, method=None, query=None, **headers):
    """(status, body, headers) of what the board of a folder answers."""
    app = build(Shelf(folder), children or Recorded(), Limits(), Metrics(), NAMES)
    sent = []
    parts = [b"" if body is None else json.dumps(body).encode()]

    async def receive():
        if not parts:
            await asyncio.sleep(30)
        return {"type": "http.request", "body": parts.pop(), "more_body": False}

    async def send(message):
        sent.append(message)

    names = {"host": "localhost:8010", **({} if body is None else JSON), **headers}
    scope = {"type": "http", "method": method or ("GET" if body is None else "POST"), "path": path, "root_path": "",
             "raw_path": path.encode(), "query_string": urlencode(query or {}).encode(),
             "headers": [(name.encode(), value.encode()) for name, value in names.items()]}
    asyncio.run(app(scope, receive, send))
    text = b"".join(message.get("body", b"") for message in sent[1:]).decode()
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], json.loads(text) if "json" in found.get("content-type", "") else text, found


def test_the_list_and_a_run_are_told():
    status, found, _ = asked(OLD, "/api/runs")
    assert status == 200 and [one["id"] for one in found["runs"]] == ["bert", "gpt2", "lora", "prefix"]
    status, told, _ = asked(OLD, "/api/run", query={"run": "gpt2", "lang": "zh"})
    assert status == 200 and told["can"]["chat"] and told["cost"]["device"] == "cpu"
    status, lines, _ = asked(OLD, "/api/lines", query={"run": "gpt2"})
    assert lines["until"] == (OLD / "gpt2" / "metrics.jsonl").stat().st_size
    again = {"run": "gpt2", "since": lines["until"], "file": lines["file"]}
    assert asked(OLD, "/api/lines", query=again)[1]["events"] == []


@pytest.mark.parametrize(("path", "query", "status", "said"), [
    ("/api/run", {"run": "nix"}, 404, "no run is called 'nix' here"),
    ("/api/run", {}, 404, "no run is called '' here"), ("/report", {"run": "../older"}, 404, "no run is called"),
    ("/api/lines", {"run": "gpt2", "since": "-1"}, 400, "since: '-1' is no number of bytes"),
    ("/api/lines", {"run": "gpt2", "since": "9" * 30}, 400, "is no number of bytes"),
    ("/api/nix", {}, 404, "there is nothing at /api/nix"), ("/chat/v1/models", {}, 503, "no model is open"),
    ("/%2e%2e/starting.py", {}, 404, "there is nothing"), ("/../starting.py", {}, 404, "there is nothing")])
def test_what_isnt_there_is_said(path, query, status, said):
    got, found, _ = asked(OLD, path, query=query)
    assert got == status and said in found["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/api/runs", "/report", "/chat/", "/board.js"])
def test_it_is_asked_as_this_machine_alone(path):
    status, found, _ = asked(OLD, path, host="evil.example")
    assert status == 403 and "this server is asked as" in found["error"]["message"]


@pytest.mark.parametrize("path", ["/api/rows", "/api/predict", "/api/open", "/api/close", "/chat/v1/chat/completions"])
def test_a_foreign_page_starts_nothing(path):
    children = Recorded()
    assert asked(OLD, path, {"run": "gpt2"}, children, origin="http://evil.example")[0] == 403
    assert asked(OLD, path, {"run": "gpt2"}, children, origin="http://localhost:9999")[0] == 403
    assert asked(OLD, path, {"run": "gpt2"}, children, origin="null")[0] == 403
    assert asked(OLD, path, {"run": "gpt2"}, children, **{"content-type": "text/plain"})[0] == 415
    assert asked(OLD, path, children=children, method="GET")[0] == 405
    assert children.asked == []


def test_the_page_has_a_policy_and_so_has_a_report(made, tmp_path):
    folder = made(title=EVIL)
    (folder / "samples.jsonl").write_text(json.dumps(
        {"event": "samples", "step": 1, "rows": [{EVIL: EVIL, "text": [[EVIL, EVIL, EVIL]]}]}) + "\n")
    status, page, headers = asked(tmp_path / "runs", "/")
    assert status == 200 and "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
    assert not re.search(r"<script(?! type=\"module\" src=)|style=| on\w+=|https?:", page)
    status, page, headers = asked(tmp_path / "runs", "/report", query={"run": "first"})
    assert status == 200 and "script" not in headers["content-security-policy"]
    assert page.count("&lt;script&gt;") >= 4 and "<script" not in page
    assert "style-src 'sha256-" in headers["content-security-policy"]


def test_rows_are_drawn_by_inspect_in_a_process_of_its_own():
    said = {"rows": 5, "notes": ["two sources"], "drawn": [
        {"row": 0, "seen": [{"side": "reads", "tokens": [{"text": EVIL, "kind": "masked", "label": "a"}]}],
         "shown": {}, "fields": {"input_ids": [1]}, "pass": 0}]}
    children = Recorded(json.dumps(said))
    status, found, _ = asked(OLD, "/api/rows", {"run": "bert", "row": 3}, children)
    assert status == 200 and found["rows"] == 5 and set(found["drawn"][0]) == {"row", "seen", "shown"}
    recipe = str(OLD / "bert" / "recipe.yaml")
    assert children.asked == [(["inspect", recipe, "--row", "3", "--row", "4", "--row", "5", "--json"], "")]
    for wrong in (-1, 1.5, "0", True, None):
        assert asked(OLD, "/api/rows", {"run": "bert", "row": wrong}, children)[0] == 400


def test_of_the_last_rows_fewer_are_drawn():
    class Few(Recorded):
        async def once(self, words, given=""):
            self.asked.append(list(words))
            if len(self.asked) == 1:
                raise ApiError(422, "--row 5: there are 5 rows, numbered from 0.")
            return json.dumps({"rows": 5, "notes": [], "drawn": []})

    children = Few()
    assert asked(OLD, "/api/rows", {"run": "bert", "row": 3}, children)[0] == 200
    assert children.asked[1].count("--row") == 2


def test_a_row_is_predicted_by_the_fields_of_its_task():
    children = Recorded('{"label": "place", "score": 0.5}\n')
    fields = {"text": "a cat", "text_pair": ""}
    status, found, _ = asked(OLD, "/api/predict", {"run": "lora", "fields": fields}, children)
    assert (status, found) == (200, {"said": {"label": "place", "score": 0.5}})
    assert children.asked == [(["predict", str(OLD / "lora"), "-"], '{"text": "a cat"}\n')]
    for fields, said in (({"text": " "}, "text: is empty"), ({"txt": "a"}, "fields: a text each for some of text"),
                         ({"text": 3}, "fields: a text each"), ([], "fields: a text each"), (None, "fields:")):
        status, found, _ = asked(OLD, "/api/predict", {"run": "lora", "fields": fields}, children)
        assert status == 400 and found["error"]["message"].startswith(said)
    assert asked(OLD, "/api/predict", {"run": "gpt2", "fields": {"text": "a"}}, children)[0] == 422
    assert len(children.asked) == 1


def test_a_model_is_opened_on_a_click_and_never_one_that_cant_write():
    children = Recorded()
    assert asked(OLD, "/api/open", {"run": "lora"}, children)[0] == 422
    assert asked(OLD, "/api/open", {"run": "nix"}, children)[0] == 404
    assert children.asked == []
    assert asked(OLD, "/api/open", {"run": "gpt2"}, children)[1] == {"chat": "gpt2"}
    assert children.asked == [("gpt2", "before-gpt2", str(OLD / "gpt2"))]
    assert asked(OLD, "/api/chat", children=children)[1] == {"chat": "gpt2"}
    assert asked(OLD, "/api/close", {}, children)[1] == {"chat": None}


# ---- processes ----

TALKS = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Answers(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"data: " + body + b"\\n\\n")

    def log_message(self, *words):
        pass

server = HTTPServer(("127.0.0.1", 0), Answers)
print(f"listening on http://127.0.0.1:{server.server_port}: a page", file=sys.stderr, flush=True)
server.serve_forever()
"""


@pytest.fixture
def scripted(monkeypatch):
    """Children whose program is a script, for a model takes seconds to be opened."""
    def script(code):
        children = Children(idle=0.2)
        start = children._start

        async def begin(words, stdout, stdin):
            create = asyncio.create_subprocess_exec

            async def instead(program, *given, **how):
                return await create(program, "-c", code, *given[2:], **how)

            monkeypatch.setattr(asyncio, "create_subprocess_exec", instead)
            try:
                return await start(words, stdout, stdin)
            finally:
                monkeypatch.setattr(asyncio, "create_subprocess_exec", create)

        children._start = begin
        return children

    return script


def test_a_question_goes_to_the_models_process_and_its_answer_comes_back(scripted):
    children = scripted(TALKS)

    async def go():
        await children.open("first", "name=a", "folder")
        talk = children.at()
        answer = await forward(talk, "POST", "/v1/chat/completions", b'{"a": 1}')
        pieces = [piece async for piece in answer.body_iterator]
        assert talk.open_questions == 0
        watching = asyncio.create_task(children.watch())
        for _ in range(100):
            if children.talk is None:
                break
            await asyncio.sleep(0.05)
        watching.cancel()
        with pytest.raises(ApiError, match="no model is open"):
            children.at()
        await talk.process.wait()
        with pytest.raises(ApiError, match="broke off"):
            await forward(talk, "GET", "/v1/models")
        return answer.status_code, answer.headers["content-type"], b"".join(pieces), talk.process.returncode

    assert asyncio.run(go()) == (200, "text/event-stream", b'data: {"a": 1}\n\n', -9)


@pytest.mark.parametrize(("code", "said"), [
    ("import sys; print('llmkit: error: no model.', file=sys.stderr); sys.exit(2)", "no model."),
    ("import sys; sys.exit('Killed')", "Killed"), ("", "it ended without a word.")])
def test_a_model_that_cant_be_opened_says_why(scripted, code, said):
    children = scripted(code)

    async def go():
        with pytest.raises(ApiError) as error:
            await children.open("first", "first", "folder")
        assert children.talk is None
        return error.value.status, error.value.message

    assert asyncio.run(go()) == (422, said)


def test_one_look_goes_on_at_a_time_and_all_end_with_the_board(scripted):
    children = scripted("import sys, time; print(sys.stdin.read().upper()); time.sleep(float(sys.argv[1]))")

    async def go():
        assert await children.once(["0"], "text") == "TEXT\n"
        slow = asyncio.create_task(children.once(["60"]))
        for _ in range(200):
            if children._once is not None:
                break
            await asyncio.sleep(0.01)
        with pytest.raises(ApiError, match="another look at a model goes on"):
            await children.once(["0"])
        children.stop(0)
        with pytest.raises(ApiError):
            await slow
        with pytest.raises(ApiError, match="another look"):
            await children.once(["0"])

    asyncio.run(go())




def test_half_a_pair_of_surrogates_takes_no_page_away(tmp_path):
    """As in a name that isn't UTF-8, or in a JSON text that was cut."""
    import shutil

    shutil.copytree(OLD / "gpt2", tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.write_text(re.sub(r"^name: .*$", r'name: "a\\uD800"', recipe.read_text(), flags=re.MULTILINE))
    shutil.copytree(OLD / "bert", tmp_path / "bad\udcff")
    status, body, _ = asked(tmp_path, "/api/runs")
    assert status == 200
    assert len(body["runs"]) == 2
    for path in ("/api/run", "/report"):
        assert asked(tmp_path, path, query={"run": "run"})[0] == 200
