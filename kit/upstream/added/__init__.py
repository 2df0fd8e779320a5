"""The kit's own part of the rewritten tree, imported there as ``megatron.spark_kit``."""
