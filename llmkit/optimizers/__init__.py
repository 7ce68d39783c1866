"""Optimizers: what a gradient does to the weights."""
