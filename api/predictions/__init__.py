"""What a job's network says of each test sample, sample by sample."""
