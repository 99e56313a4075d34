"""`study`: what diffusion segmentation learns, whether it pays, and how it should be set up, on data of one's own.

Öttl et al., "Analysing Diffusion Segmentation for Medical Images", 2024, ask these questions; each is a module in
`questions`. What a question needs trained are `arms`, all with the same time; what it measures are `probes`, kept like
the arms; what it says are sentences with intervals, or that the data do not decide.
"""
