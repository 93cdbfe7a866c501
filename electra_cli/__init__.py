"""Pre-training of ELECTRA text encoders in TensorFlow, from the command line."""

__version__ = "0.1.0"
