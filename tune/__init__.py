"""What searches: Ray Tune with Optuna and ASHA over `reranker`, tracked in MLflow."""
