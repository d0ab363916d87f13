"""Where trials run: a Ray cluster, its worker groups, and whose fault a failure is."""
