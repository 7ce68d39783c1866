"""Texts that must have a form: JSON of a schema, token by token."""
