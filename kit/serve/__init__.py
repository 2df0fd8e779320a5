"""The OpenAI-compatible server and the engines behind it."""
