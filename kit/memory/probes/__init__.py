"""Measured memory: what the driver, the kernel and its control groups tell."""
