"""Words with tags: files of them, the schemes that mark entities, spans in a text, and the tokens of words."""
