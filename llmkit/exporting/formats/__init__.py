"""Formats to give a model away in: each a file with `DTYPES`, `LIBRARY`, `check`, `write` and `how`."""
