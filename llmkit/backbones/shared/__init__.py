"""What several families have."""
