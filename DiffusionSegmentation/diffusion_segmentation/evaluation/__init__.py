"""Evaluation of a model and its uncertainty: `diffusion-segmentation evaluate`.

On a task with a known posterior (`known_answer`) every score has a right value, and wrong samplers are scored beside
the model: if they pass, the scores detect nothing. On a folder of labelled images (`dataset`) the truth is the raters'
label maps, on synthetic heads the labels they were made from. `report` writes the tables and the page.
"""
