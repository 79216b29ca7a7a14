"""Parts of holographic_codes.py: tilings under erasure, memories under loss, a picture."""
