"""Tasks: objectives that also have fields, labels, predictions and metrics."""
