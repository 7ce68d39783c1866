"""A run, from its first step to the folder that it leaves."""
