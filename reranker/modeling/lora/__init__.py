"""A base → the same with adapters: where they are put, how they start, and what it was taught before. Knows checkpoints."""
