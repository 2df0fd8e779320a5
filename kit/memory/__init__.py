"""Memory: plan (predict), probe (measure), hold (compare)."""
