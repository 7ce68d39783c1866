"""How many there are of something, in words."""


def are(count: int) -> str:
    """The verb of a count: `1 row is`, `2 rows are`."""
    return "is" if count == 1 else "are"


def many(count: int, what: str, several: str = "") -> str:
    """A count and what is counted, in the number that it has.

    >>> many(1, "row"), many(1200, "row"), many(2, "pass", "passes")
    ('1 row', '1,200 rows', '2 passes')
    """
    return f"{count:,} {what if count == 1 else several or f'{what}s'}"
