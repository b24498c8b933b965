"""The verbs classify and doctor, and what all verbs share: messages, progress, signals."""
