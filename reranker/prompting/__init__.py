"""Candidate lists → token ids, and the forward passes that they make up."""
