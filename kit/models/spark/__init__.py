"""iFlytekSpark for transformers. ``import kit.models.spark`` makes the Auto classes know it."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from kit.models.spark.configuration_spark import SparkConfig
from kit.models.spark.modeling_spark import SparkForCausalLM, SparkModel
from kit.models.spark.tokenization_spark import SparkTokenizer

AutoConfig.register(SparkConfig.model_type, SparkConfig, exist_ok=True)
AutoModel.register(SparkConfig, SparkModel, exist_ok=True)
AutoModelForCausalLM.register(SparkConfig, SparkForCausalLM, exist_ok=True)
AutoTokenizer.register(SparkConfig, slow_tokenizer_class=SparkTokenizer, exist_ok=True)

__all__ = ["SparkConfig", "SparkForCausalLM", "SparkModel", "SparkTokenizer"]
