"""Trained nnU-Nets as models: conversion of their folders, and runs with nnU-Net's own preprocessing and windows."""
