"""What several tuning methods share; no method of its own."""
