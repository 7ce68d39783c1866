"""What several tasks share; no task of its own."""
