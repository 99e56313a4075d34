"""`diffusion-segmentation calibrate`: fits the spread of a model's samples to labelled cases held out of training.

The networks are not changed. Fitted and stored in the model's metadata: the covariance of the correlated start
(`covariance`), the log-SNR from which it is denoised, if any, and the weight of the direct head in the probability map
(`start`).
"""
