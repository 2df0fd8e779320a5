"""Serving at full size on tensors without data: the real code runs, and every byte is counted."""
