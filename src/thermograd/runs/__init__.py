"""One run on disk: its folder, checkpoints, loop and pictures."""
