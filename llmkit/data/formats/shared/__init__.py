"""What formats are made of: SQuAD's nesting, and what a first row is."""
