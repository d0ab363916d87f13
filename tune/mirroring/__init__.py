"""A study's folder → what every tracker has of it, and the threads that keep trackers up to it."""
