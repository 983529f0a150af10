"""Base models as llama.cpp has them: GGUF files that are read, and those that are written."""
