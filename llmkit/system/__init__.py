"""What llmkit asks of the machine and says to people: errors, caches, signals, memory, progress. It knows no model."""
