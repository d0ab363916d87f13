"""Generated toy base models, shipped with the package."""
