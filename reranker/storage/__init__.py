"""Reading and writing files: completely or not at all, with a place for each fault. Imports only `errors`."""
