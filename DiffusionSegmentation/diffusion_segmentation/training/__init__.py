"""Training: data sources, the loss and the loop that writes a model folder."""
