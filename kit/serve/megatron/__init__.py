"""The megatron engine: upstream's own model code, rewritten, in processes of its own."""
