"""A configuration and its data → an adapter: first the skill of naming labels, then the rule of the data."""
