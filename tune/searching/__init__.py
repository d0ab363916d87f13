"""What is tried next, what stops, and what a restart knows: Optuna, ASHA, budgets, requests."""
