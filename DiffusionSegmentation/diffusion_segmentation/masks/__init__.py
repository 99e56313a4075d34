"""Import of masks and class probabilities that other programs or people made, as a result of this program."""
