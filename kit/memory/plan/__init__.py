"""Predicted memory: what a model and an engine take, line by line, and what fits."""
