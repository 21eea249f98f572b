"""What a model family is: loading, encoding (chat template to tokens, loss mask and image inputs), family facts."""
