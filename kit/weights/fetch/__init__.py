"""From sources to the weights folder: found, moved in parts, resumed, verified."""
