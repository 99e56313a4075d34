"""The parts that a synthetic head is made of: anatomy, contrast, scanner, cuts, and the rule by which it is labelled.

`synthesis` puts them together. Arrays are [z, y, x], z to S, y to P, x to L.
"""
