"""Before a run: every `auto` becomes a value, and what can't work is refused."""
