"""A base and an answer's labels → their logits, without the rest of the vocabulary. Knows no prompts."""
