"""The checks: one module for each area, pure functions over the facts."""
