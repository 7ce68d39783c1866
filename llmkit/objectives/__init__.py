"""Pretraining objectives: rows and chance to a batch, model and batch to a loss."""
