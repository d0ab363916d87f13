"""What was found: reads a study's folder; never imports the search."""
