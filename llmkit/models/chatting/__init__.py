"""How a conversation becomes one text: templates of tokenizers, and tools that are called in it."""
