"""From bytes to text: unpack a file, know it by its first bytes, decode it, and say which encoding fits."""
