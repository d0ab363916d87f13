"""Interaction files → filtered sequences → candidate lists, and rankings without a language model."""
