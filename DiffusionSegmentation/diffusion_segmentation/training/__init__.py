"""Training: synthetic heads from an atlas, and the loop that makes a model folder."""
