"""Commands that show what runs did and what models do, beside each other."""
