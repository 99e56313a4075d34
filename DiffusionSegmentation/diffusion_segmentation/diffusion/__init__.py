"""The diffusion process in log-SNR and the correlated start."""
