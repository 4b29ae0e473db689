"""What came out of training, to look at: pictures of results."""
