"""One row is a row."""

from llmkit.system.plural import many


def test_a_count_has_the_number_of_its_word() -> None:
    assert [many(count, "row") for count in (0, 1, 2, 1200)] == ["0 rows", "1 row", "2 rows", "1,200 rows"]
    assert many(2, "pass", "passes") == "2 passes"
