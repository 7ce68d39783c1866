"""Data sets that are known by name: GLUE and CLUE, from a hub or from folders as `datasets` lays them out."""
