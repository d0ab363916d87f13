"""What the user reads while a search runs, and what other programs learn of its end."""
