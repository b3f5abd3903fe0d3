"""What a conversion returns: a GraphModule that is for its callers what the model that came in was."""
