"""What stages share that score a student: the student itself, its images, thresholds, and what scores leave behind."""
