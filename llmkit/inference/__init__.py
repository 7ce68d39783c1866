"""What a trained model is used for: writing, filling, searching, labelling, measuring, comparing."""
