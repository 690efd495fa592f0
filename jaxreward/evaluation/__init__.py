"""Numbers about a policy that the training loss does not see."""
