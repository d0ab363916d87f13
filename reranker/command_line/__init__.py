"""Shared by all commands: an entry point that turns faults into sentences, and text that is safe to print."""
