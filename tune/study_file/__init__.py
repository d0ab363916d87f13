"""A study file → a checked `Study`, and what is known of it before the first trial."""
