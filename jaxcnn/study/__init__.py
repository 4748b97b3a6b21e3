"""Several trainings with one question: which value is best, and what the four networks reach."""
