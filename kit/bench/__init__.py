"""Measurements side by side: loaders, each in a fresh process."""
