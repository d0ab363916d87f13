"""The words of a command line → a search that runs under a lock, shows how it goes, and ends in order."""
