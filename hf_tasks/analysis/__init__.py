"""What a trained model does: pictures of its results, and (to come) its heads, probes and sharpness."""
