"""``valley chat`` without its terminal: the conversation as a value, what is attached, files, and the / commands."""
