"""Smaller checkpoints: llm-compressor in an environment of its own, and a report on what it cost in quality."""
