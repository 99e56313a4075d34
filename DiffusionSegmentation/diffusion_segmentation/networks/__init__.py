"""Encoder and denoiser networks, the space-to-depth layout of their states, and statistics of their features."""

# ruff: noqa: F401 - the names are imported for callers of the package
from .blocks import CHANNELS_LAST, class_softmax, class_softmax_, depth_to_space, space_to_depth
from .denoiser import Denoiser
from .encoder import Encoder
from .facts import UNKNOWN, clamp_known
from .frozen_head import ODDS_LIMIT, AnyEncoder, FrozenHead, GivenLogits
from .input_statistics import InputDistance, InputStatistics, ScanSummary
