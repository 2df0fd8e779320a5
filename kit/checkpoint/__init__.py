"""Reading and converting upstream checkpoints without torch."""
