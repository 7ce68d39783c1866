"""Runs and prompts side by side, over several seeds."""
