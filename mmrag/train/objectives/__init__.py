"""What is minimised, as pure functions: one file for each family, each function with the paper that it is from."""
