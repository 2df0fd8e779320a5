"""Checkpoints on disk: where they come from, conversion, the weights folder."""
