"""A server of models for one machine: a page to try them on, and an OpenAI-compatible endpoint."""
