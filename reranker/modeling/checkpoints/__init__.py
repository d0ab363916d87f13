"""A model's name → its files, its shape, and the numbers that its weights are kept in. Builds no model."""
