"""Files as the project reads and writes them: whole or not at all, with a place for each fault. Imports `errors` alone."""
