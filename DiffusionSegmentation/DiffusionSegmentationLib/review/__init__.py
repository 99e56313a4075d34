"""The review of uncertain regions. No qt."""
