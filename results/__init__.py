"""Results of a study: reads its folder, and never imports the search."""
