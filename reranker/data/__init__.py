"""Interaction files → filtered sequences → candidate lists, and the rankings that need no language model."""
