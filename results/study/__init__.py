"""A study on disk: its folder, its journal, their consistency, and the addresses it stores. The search writes them."""
