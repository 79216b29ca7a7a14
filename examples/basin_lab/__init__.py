"""Parts of the example of basins: problems, methods, picture."""
