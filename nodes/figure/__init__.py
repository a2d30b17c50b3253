"""What is made of a sweep: figures, other views of its grid, and measures of its cells."""
