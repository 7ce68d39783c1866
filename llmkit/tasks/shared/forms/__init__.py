"""Rows as other programs and data sets nest or name them, made into rows with a column a field."""
