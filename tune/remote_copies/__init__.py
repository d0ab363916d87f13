"""A study's folder ↔ its copy on an object store, or wherever `pyarrow.fs` writes."""
