"""Texts with words swapped for their counterparts, he for she: read from a list, and put beside what is learned."""
