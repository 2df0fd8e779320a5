"""The models of the kit for transformers: one folder a family, each known to the Auto classes."""
