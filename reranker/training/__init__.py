"""A configuration and its data → an adapter: the skill of naming labels first, then the rule of the data."""
