"""What several objectives share; no objective of its own."""
