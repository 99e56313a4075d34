"""The report of an evaluation: sentences, tables, figures and one HTML page.

`html`, `tables`, `figures` and `formatting` do not depend on the kind of evaluation; the study uses them, too.
"""
