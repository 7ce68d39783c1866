"""How an instruction, examples and an input become one prompt: a file a mode."""
