"""From predictions to score rows with intervals, and from score rows to comparisons."""
