"""Learning from a teacher: what it is asked, what is kept of its answers, and what the student loses by other ones."""
