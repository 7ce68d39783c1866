"""What makes a step cheaper and leaves its numbers as they are."""
