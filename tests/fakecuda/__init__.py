"""A GPU that isn't there, for tests: torch believes in it, and a CPU does its work."""
