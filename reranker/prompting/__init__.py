"""Candidate lists → token ids → forward passes."""
