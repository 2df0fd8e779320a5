"""The name that Spark had before other families came: ``import kit.spark`` goes on to work."""

from kit.models.spark import SparkConfig, SparkForCausalLM, SparkModel, SparkTokenizer

__all__ = ["SparkConfig", "SparkForCausalLM", "SparkModel", "SparkTokenizer"]
