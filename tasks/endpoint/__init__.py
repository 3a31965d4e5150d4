"""A model behind an OpenAI-compatible endpoint, as teacher and as judge: asked politely, once, within a budget."""
