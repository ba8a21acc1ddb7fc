"""Early exit on a Transformers model: `get_deed_model`, forward, generate, folders."""
