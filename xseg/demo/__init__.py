"""The whole chain on built-in data: the commands a user would type, and what each stage scores."""
