"""From checkpoints to directories that can be served: found, converted, recorded, verified."""
