"""What several prompt modes share; no mode of its own."""
