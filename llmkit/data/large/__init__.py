"""Text that is large: tokenized by several processes, cut into shards, read from far away, in an order of no size."""
