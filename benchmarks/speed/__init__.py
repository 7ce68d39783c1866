"""llmkit beside the stock way: the same model, tokens and start, by turns, in one run."""
