"""A study's figures → findings in plain words."""
