"""Images → words, or tokens in prompts. Knows how models are loaded."""
