"""A model and its prompts → label scores → ranks and figures."""
