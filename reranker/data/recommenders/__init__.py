"""Sequences and item texts → scores of items by whatever ranks without a language model, and the ranks that those give; and what counting knows of each candidate.

Makes no lists.
"""
