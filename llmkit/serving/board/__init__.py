"""The board: all runs under a folder on a page that moves with them, which only this machine can ask for."""
