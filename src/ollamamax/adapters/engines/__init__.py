"""Engines: llama.cpp children, attached Ollama servers, attached OpenAI-compatible servers."""
