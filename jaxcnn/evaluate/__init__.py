"""What a trained run can do: scores, classes of image files, pictures."""
