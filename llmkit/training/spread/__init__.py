"""How a model is spread over the processes of a run: one protocol, a file for each way."""
