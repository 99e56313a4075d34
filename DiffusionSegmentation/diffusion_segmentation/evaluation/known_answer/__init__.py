"""Evaluation on tasks whose exact posterior is known."""
