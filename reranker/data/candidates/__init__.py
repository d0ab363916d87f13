"""A split → lists: for each example the candidates that stand beside its target, and a guard against leaks.

Knows recommenders, which draw hard negatives and retrieve.
"""
