"""Parts of time_reversal.py: three systems, their training, comparisons, a table, a picture."""
