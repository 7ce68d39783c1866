"""What a stranger's folder says of its model, compared with what is in it before anything is built."""
