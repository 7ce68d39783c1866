"""What a run keeps on disk: its folder, its checkpoints, and how it goes on from them."""
