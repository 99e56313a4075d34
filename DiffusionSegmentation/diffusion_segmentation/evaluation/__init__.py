"""How good a model is, and whether what it says about its uncertainty is true: `diffusion-segmentation evaluate`.

On a task with a known answer (`known`) every score has a right value, and wrong samplers are scored beside the model:
if they passed, the scores would be blind. On a folder of labelled images (`cases`) the truth is what people drew.
"""
