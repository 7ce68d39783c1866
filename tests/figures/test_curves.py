"""A run's curves, from its events."""

from pathlib import Path

import pytest

from llmkit.figures import curves, paper
from llmkit.figures.curves import Curve

EVENTS = [
    {"event": "evaluate", "step": 0, "loss": 6.0, "accuracy": 0.1},
    {"event": "train", "step": 1, "loss": 5.0, "learning_rate": 1e-3, "grad_norm": 1.0, "tokens_per_second": 900.0},
    {"event": "train", "step": 2, "loss": float("nan"), "learning_rate": 5e-4, "grad_norm": 99.0},
    {"event": "spike", "step": 2, "loss": 9.0, "deviations": 7.0},
    {"event": "train", "step": 3, "loss": 3.0, "learning_rate": 1e-4, "grad_norm": 2.0, "tokens_per_second": 1000.0},
    {"event": "evaluate", "step": 3, "loss": 4.0, "accuracy": 0.5},
]


def test_a_run_has_four_panels_and_what_is_no_number_is_left_out() -> None:
    loss, rate, norm, speed = curves.panels(EVENTS, floor=4.5)
    assert [(line.name, line.steps, line.values) for line in loss.lines] == [
        ("training", (1, 3), (5.0, 3.0)), ("validation", (0, 3), (6.0, 4.0))]
    assert loss.floors == {"word frequencies alone": 4.5}
    assert loss.points[0].values == (9.0,)
    assert rate.lines[0].values == (1e-3, 5e-4, 1e-4)
    assert (norm.log, speed.log) == (True, False)
    assert speed.lines[0].steps == (1, 3)


def test_evaluations_have_a_panel_a_figure_with_its_floors() -> None:
    (panel,) = curves.measured(EVENTS, {"majority class": {"accuracy": 0.4}, "other": {"f1": 0.2}})
    assert (panel.title, panel.lines[0].values, panel.floors) == ("accuracy", (0.1, 0.5), {"majority class": 0.4})


def test_a_panel_says_in_words_what_it_shows() -> None:
    assert curves.panels(EVENTS)[0].in_words() == (
        "loss over steps: training 5 at step 1, 3 at step 3, lowest 3 at step 3, highest 5 at step 1; "
        "validation 6 at step 0, 4 at step 3, lowest 4 at step 3, highest 6 at step 0.")


def test_a_long_curve_is_thinned_by_means() -> None:
    line = Curve("x", tuple(range(1, 7)), (1.0, 3.0, 5.0, 7.0, 9.0, 11.0)).thinned(3)
    assert line.steps == (1.5, 3.5, 5.5)
    assert line.values == (2.0, 6.0, 10.0)


@pytest.mark.parametrize("theme", [paper.LIGHT, paper.DARK])
def test_the_picture_has_its_grounds_colour_and_its_words(tmp_path: Path, theme: paper.Theme) -> None:
    import matplotlib.image as images

    path = tmp_path / "loss.png"
    curves.draw(curves.panels(EVENTS)[:1], "try $x$ 其他", path, theme)
    corner = images.imread(path)[2, 2, :3]
    assert [round(255 * value) for value in corner] == [int(theme.ground[i : i + 2], 16) for i in (1, 3, 5)]
    assert b"training 5 at step 1" in path.read_bytes()
    assert [one.name for one in tmp_path.iterdir()] == ["loss.png"]
