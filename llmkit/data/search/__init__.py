"""What search reads: folders and their pages, cut into passages."""
