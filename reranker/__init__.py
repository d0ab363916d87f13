"""What is tuned: a small LLM that reranks labelled candidates. Knows nothing of Ray Tune, Optuna or MLflow."""
