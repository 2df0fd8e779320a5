"""Measured memory: recorded, asserted, explained; and simulated where there is no GPU."""
