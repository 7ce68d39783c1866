"""A GPU that isn't there, for tests: README of the idea in docs/gpus.md."""
