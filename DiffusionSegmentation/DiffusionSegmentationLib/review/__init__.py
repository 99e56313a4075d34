"""Review and correction of uncertain regions. Independent of Qt."""
