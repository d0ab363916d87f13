"""Model names → checkpoints with an adapter, a label head and shared lists; what they take of memory."""
