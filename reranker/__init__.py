"""The model to tune: a small LLM that reranks labelled candidates. Does not use Ray Tune, Optuna or MLflow."""
