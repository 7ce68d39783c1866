"""Model families: where each one's parts are, and its named sizes."""
