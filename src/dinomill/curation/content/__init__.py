"""What is in the images beyond quality: filters by measures, unsafe content, faces."""
