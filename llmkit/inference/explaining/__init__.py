"""What a prediction rests on: attention, the tokens that it changes without, and what each layer would say."""
