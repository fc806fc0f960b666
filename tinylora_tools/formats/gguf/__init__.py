"""GGUF as llama.cpp reads it: LoRA adapters, and how it has the weights of transformers' classes."""
