"""`diffusion-segmentation calibrate`: the spread of a model's samples, fitted to labelled cases that it has not seen.

The networks stay as they are. What is fitted is stored in the model's metadata: the covariance of the correlated
start (`covariance`), the log-SNR from which a start is denoised, if it is (`start`), and how many samples the direct
head is worth in the map (`prior`).
"""
