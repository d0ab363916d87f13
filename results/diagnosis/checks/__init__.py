"""One function for each thing that can be wrong with a study: evidence → one finding or none."""
