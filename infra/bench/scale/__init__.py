"""What the measurements of large trainings are made of."""
