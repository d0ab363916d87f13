"""What is known of a study → findings in plain words."""
