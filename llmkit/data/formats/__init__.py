"""Formats of files, one module each, found by listing this folder."""
