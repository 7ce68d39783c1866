"""What starts a recipe's run elsewhere: a file for a scheduler, or the lines for machines that one logs in to."""
