"""Dockerfile, .dockerignore and compose.yaml, as far as they can be looked at where there is no docker.

What hadolint would say, and whether each name in them is there: files, extras, commands, variables, the address that is
asked for health. Nobody has built the image in these tests.
"""

import ast
import fnmatch
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_pages import parse

from llmkit.cli import main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VARIABLE = re.compile(r"\$\{?(\w+)(?::?[-?]([^}]*))?\}?")


def instructions() -> list[tuple[str, str]]:
    """(FROM, its words) …, continued lines joined and comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def said(*words: str) -> list[str]:
    return [rest for word, rest in instructions() if word in words]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of the context."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    parts = path.split("/")
    above = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return any(fnmatch.fnmatch(one, pattern.removeprefix("**/")) or (fnmatch.fnmatch(one.rpartition("/")[2],
               pattern.removeprefix("**/")) and pattern.startswith("**/")) for one in above for pattern in patterns)


def test_every_instruction_is_one_and_the_image_starts_llmkit_as_nobody_of_weight() -> None:
    known = "FROM ARG ENV WORKDIR COPY RUN USER VOLUME EXPOSE STOPSIGNAL ENTRYPOINT CMD"
    assert {word for word, _ in instructions()} <= set(known.split())
    assert instructions()[0][0] == "FROM"
    assert ast.literal_eval(said("ENTRYPOINT")[0]) == list(PROJECT["scripts"])
    assert main(ast.literal_eval(said("CMD")[0])) == 0
    user = said("USER")[-1]
    assert user != "root" and any(f"useradd --create-home --uid 1000 {user}" in rest for rest in said("RUN"))


def test_the_base_is_a_python_that_is_tested_and_has_a_tag() -> None:
    named = {line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if ":: 3." in line}
    for base in said("FROM"):
        image, tag = base.split()[0].split(":")
        assert (image, tag.partition("-")[0] in named) == ("python", True)


def test_what_a_line_runs_is_a_shells_and_pip_keeps_no_cache() -> None:
    for line in said("RUN"):
        subprocess.run(["bash", "-n", "-c", line], check=True)
        assert "sudo" not in line and "apt-get" not in line
    assert all("PIP_NO_CACHE_DIR=1" in rest for rest in said("ENV") if "PIP" in rest)
    install = next(line for line in said("RUN") if "pip install" in line)
    assert install.index("torch") < install.index("/wheels/*.whl")  # else PyPI's torch, with CUDA, comes along
    assert install.count("-c /tmp/constraints.txt") == 2


def test_each_variable_is_declared_before_it_is_used_and_each_extra_is_there() -> None:
    declared: set[str] = set()
    for word, rest in instructions():
        if word == "FROM":
            declared = set()
        if word != "ARG":
            assert {name for name, _ in VARIABLE.findall(rest)} <= declared, rest
        if word in ("ARG", "ENV"):
            declared |= {part.partition("=")[0] for part in shlex.split(rest)}
    extras = next(rest for rest in said("ARG") if rest.startswith("EXTRAS=")).partition("=")[2]
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_what_is_copied_and_what_the_wheel_is_made_of_is_in_the_context() -> None:
    for rest in said("COPY"):
        *sources, _ = [part for part in rest.split() if not part.startswith("--from")]
        assert "--from=build" in rest or all((ROOT / source).exists() and not ignored(source) for source in sources)
    needed = ["pyproject.toml", "README.md", "LICENSE", "constraints.txt", "recipes/bert_mlm.yaml", "llmkit/py.typed",
              "llmkit/serving/page/index.html", "llmkit/system/messages/zh.po"]
    assert [path for path in needed if ignored(path) or not (ROOT / path).exists()] == []
    assert ignored("tests/conftest.py") and ignored("llmkit/__pycache__/x.pyc") and ignored(".git/HEAD")


@pytest.fixture
def service() -> dict[str, Any]:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert set(compose) == {"services", "volumes"}
    return dict(compose["services"]["serve"])


def test_the_service_serves_where_its_port_and_its_health_are(service: dict[str, Any]) -> None:
    words = [VARIABLE.sub(lambda found: found[2] or "x", word) for word in service["command"]]
    parse(shlex.join(words))
    port = words[words.index("--port") + 1]
    assert service["ports"] == [f"${{LLMKIT_PORT:-127.0.0.1:8000}}:{port}"] and said("EXPOSE") == [port]
    code = service["healthcheck"]["test"][-1]
    ast.parse(code)
    path = re.search(rf"http://127\.0\.0\.1:{port}(/\w+)", code)
    routes = "".join(path.read_text() for path in (ROOT / "llmkit" / "serving").rglob("*.py"))
    assert path is not None and f'"{path[1]}"' in routes


def test_a_container_has_a_key_and_folders_that_the_image_knows(service: dict[str, Any]) -> None:
    assert service["environment"]["LLMKIT_API_KEY"].startswith("${LLMKIT_API_KEY:?")
    source = (ROOT / "llmkit" / "cli" / "serve.py").read_text()
    assert all(f'"{name}"' in source for name in service["environment"])
    inside = [volume.split(":")[1] for volume in service["volumes"]]
    assert inside == [said("WORKDIR")[-1], ast.literal_eval(said("VOLUME")[0])[0]]
    assert "LLMKIT_CACHE=/cache/llmkit" in said("ENV")[-1]
