"""Training lists → a second opinion of their candidates, from a recommender or a file."""
