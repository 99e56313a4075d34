"""`python -m DiffusionSegmentationLib.headless` runs the demo."""

import sys

from .session import main

sys.exit(main())
