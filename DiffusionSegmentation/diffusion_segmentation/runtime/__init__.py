"""The machine: compute devices, memory, standard streams and versions."""
