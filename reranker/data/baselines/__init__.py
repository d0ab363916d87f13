"""Evaluation lists → the ranks that simple rankers give. Knows candidates and recommenders."""
