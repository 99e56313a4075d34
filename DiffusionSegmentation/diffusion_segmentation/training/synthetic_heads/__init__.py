"""Synthetic heads: anatomy, contrast, scanner, masking and labelling protocol; `generator` combines them.

Arrays are [z, y, x], z to S, y to P, x to L.
"""
