"""A study on disk: its folder, its journal, their agreement, and the addresses kept in it. The search writes them."""
