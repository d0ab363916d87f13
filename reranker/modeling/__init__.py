"""Model names → checkpoints with an adapter, a label head and shared lists; how much memory they take."""
