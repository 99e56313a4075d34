"""DICOM: series as input, and results as DICOM objects, which need the extra [dicom]."""
