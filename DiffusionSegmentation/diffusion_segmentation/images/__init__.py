"""Images and label maps: reading, resampling, normalising and writing them."""
