"""What optimizers are made of; no optimizer of its own."""
