"""Pictures of what a run will see: its rows, the lengths of its texts, who sees whom, how positions are told."""
