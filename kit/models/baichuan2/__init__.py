"""Baichuan2-13B for transformers: ``import kit.models.baichuan2`` tells the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from kit.models.baichuan2.configuration_baichuan2 import Baichuan2Config
from kit.models.baichuan2.modeling_baichuan2 import Baichuan2ForCausalLM, Baichuan2Model
from kit.models.baichuan2.tokenization_baichuan2 import Baichuan2Tokenizer

AutoConfig.register(Baichuan2Config.model_type, Baichuan2Config, exist_ok=True)
AutoModel.register(Baichuan2Config, Baichuan2Model, exist_ok=True)
AutoModelForCausalLM.register(Baichuan2Config, Baichuan2ForCausalLM, exist_ok=True)
AutoTokenizer.register(Baichuan2Config, slow_tokenizer_class=Baichuan2Tokenizer, exist_ok=True)

__all__ = ["Baichuan2Config", "Baichuan2ForCausalLM", "Baichuan2Model", "Baichuan2Tokenizer"]
