"""What else a recipe may do to training images, beside the crop and the flip of `data.augment`."""
