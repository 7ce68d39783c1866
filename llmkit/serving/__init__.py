"""A server that speaks the OpenAI API: models trained here, asked by any client of it."""
