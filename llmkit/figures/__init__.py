"""Pictures: what every one of them is drawn on."""
