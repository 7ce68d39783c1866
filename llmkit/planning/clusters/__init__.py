"""A run on GPUs that aren't here: its memory, its speed, its traffic and its end, by formulas of published papers."""
