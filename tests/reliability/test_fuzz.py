"""The fuzz, in small: mutated recipes and data files end in order or with one line; and it tells where one doesn't."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

reliability = pytest.mark.reliability
TESTS = Path(__file__).parents[1]


def fuzz(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run([sys.executable, "-m", "reliability.fuzz", *words], capture_output=True, text=True,
        check=False,
                          env={**os.environ, "PYTHONPATH": path, **env})


@reliability
@pytest.mark.timeout(1200)
def test_mutants_end_in_order(tmp_path: Path) -> None:
    done = fuzz("--recipes", "80", "--files", "80", "--seed", "11", "--keep", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in ("recipes", "files"):
        line = re.search(rf"^{kind}: 80 mutants of seed 11: (.*); at most", done.stdout, re.MULTILINE)
        assert line, done.stdout
        assert re.search(r"\d+ ended with 0", line[1]), "none is sound"
        assert re.search(r"\d+ ended with [23]", line[1]), "none is refused"
    assert not (tmp_path / "kept").exists()


@reliability
def test_a_mutant_is_the_same_each_time_and_a_failure_is_kept(tmp_path: Path) -> None:
    from reliability import fuzz as fuzzing

    for kind in ("recipes", "files"):
        words = [fuzzing.write(kind, 5, 7, tmp_path / f"{kind}{i}") for i in (1, 2)]
        assert words[0] == words[1] == ["pretrain", "recipe.yaml", "--output-dir", "run"]
        one, other = ({path.name: path.read_bytes() for path in (tmp_path / f"{kind}{i}").iterdir()} for i in (1, 2))
        assert one == other
    assert fuzzing.report("recipes", 1, [fuzzing.Ended(3, 1, "llmkit: error: unforeseen", 0.1, 5, "ended with 1"),
                                         fuzzing.Ended(4, 0, "", 0.1, 5)]) == 1


def test_what_recipes_are_mutated_by_is_what_the_schema_has() -> None:
    """Plug-ins by their names; a module of one's own, which the schema allows too, has none."""
    from reliability import fuzz as fuzzing

    known = fuzzing.known_fields()
    assert {("tuning", "lora"), ("objective", "masked_lm"), ("optimizer", "adamw"), ("data", "")} <= known.keys()
    assert "mlm_probability" in known["objective", "masked_lm"]
    mutants = [fuzzing.mutated_recipe(random.Random(number)) for number in range(40)]
    assert len(set(mutants)) > 35
