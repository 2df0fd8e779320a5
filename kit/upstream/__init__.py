"""The pinned Spark repo: fetched, verified against kit.lock, and rewritten into a separate tree."""
