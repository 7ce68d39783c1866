"""Answers from one's own files: search for passages, ask a model by them, and say where the answer stands."""
