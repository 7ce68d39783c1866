"""From sources to batches: reading, tokenizing, caching and packing text."""
