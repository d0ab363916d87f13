"""What a study says → words, tables and pictures of its report."""
