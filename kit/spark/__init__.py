"""iFlytekSpark for transformers. ``import kit.spark`` makes the Auto classes know it."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from kit.spark.configuration_spark import SparkConfig
from kit.spark.modeling_spark import SparkForCausalLM, SparkModel
from kit.spark.tokenization_spark import SparkTokenizer

AutoConfig.register(SparkConfig.model_type, SparkConfig, exist_ok=True)
AutoModel.register(SparkConfig, SparkModel, exist_ok=True)
AutoModelForCausalLM.register(SparkConfig, SparkForCausalLM, exist_ok=True)
AutoTokenizer.register(SparkConfig, slow_tokenizer_class=SparkTokenizer, exist_ok=True)

__all__ = ["SparkConfig", "SparkForCausalLM", "SparkModel", "SparkTokenizer"]
