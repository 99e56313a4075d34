"""`python -m diffusion_segmentation ...` is the command `diffusion-segmentation ...`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
