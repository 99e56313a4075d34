"""The HTML report of a reviewed result. No qt."""
