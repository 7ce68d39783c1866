"""Plug-ins for llmkit: a module each. Nothing is imported here, so that llmkit starts as fast as before."""
