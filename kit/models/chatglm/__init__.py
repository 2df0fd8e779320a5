"""ChatGLM-6B for transformers. ``import kit.models.chatglm`` makes the Auto classes know it."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from kit.models.chatglm.configuration_chatglm6b import ChatGLM6BConfig
from kit.models.chatglm.modeling_chatglm6b import ChatGLM6BForConditionalGeneration, ChatGLM6BModel
from kit.models.chatglm.tokenization_chatglm6b import ChatGLM6BTokenizer

AutoConfig.register(ChatGLM6BConfig.model_type, ChatGLM6BConfig, exist_ok=True)
AutoModel.register(ChatGLM6BConfig, ChatGLM6BModel, exist_ok=True)
AutoModelForCausalLM.register(ChatGLM6BConfig, ChatGLM6BForConditionalGeneration, exist_ok=True)
AutoTokenizer.register(ChatGLM6BConfig, slow_tokenizer_class=ChatGLM6BTokenizer, exist_ok=True)

__all__ = [
    "ChatGLM6BConfig",
    "ChatGLM6BForConditionalGeneration",
    "ChatGLM6BModel",
    "ChatGLM6BTokenizer",
]
