"""Statistics of a study: paired tests on per-user values, and means over seeds."""
