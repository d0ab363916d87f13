"""Per-user values → what differences prove; a configuration's runs → its mean over seeds."""
