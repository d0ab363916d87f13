"""Cells of a table → images that open, or every fault. Knows nothing else of the data."""
