"""Load against a running OpenAI-compatible server, and what its client sees."""
