"""Linear layers at decoding time; knows nothing of models or exits."""
