"""Models made into others: old files into today's, another tokenizer, a second network that goes on."""
