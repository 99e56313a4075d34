"""Published denoiser architectures that `study` compares with the product's own; segmenting imports none of them."""
