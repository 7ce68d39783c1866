"""How text is written: one token after the other, piece by piece to whoever watches."""
