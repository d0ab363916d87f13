"""The winner → a refit, a version in the registry, and the code that serves it."""
