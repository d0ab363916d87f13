"""A study's folder → JSON lines, TensorBoard, Weights & Biases: whatever a study names besides MLflow."""
