"""MONAI bundles as models: conversion of a bundle whose network is one of MONAI's, and runs with MONAI's transforms and
windows, which this package builds from validated metadata.
"""
