"""HTML report of a reviewed result. Independent of Qt."""
