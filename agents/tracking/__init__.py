"""Where the metrics of a run go: JSON lines always; Weights & Biases and TensorBoard beside them when asked."""
