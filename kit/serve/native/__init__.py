"""The native engine: our model, its weights and its KV cache, on one device."""
