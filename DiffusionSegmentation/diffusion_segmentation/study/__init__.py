"""`study`: whether diffusion segmentation pays on one's own data, what it learns, and how to set it up.

The questions, in `questions`, are those of Öttl et al., "Analysing Diffusion Segmentation for Medical Images", 2024.
Each names the variants to train, all for the same time, measures them on test cases, and summarises the results in
sentences with intervals.
"""
