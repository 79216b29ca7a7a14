"""Parts of long_sequences.py: data, model, training, measurements, a picture."""
