"""Model folders: reading, checking and writing them."""
