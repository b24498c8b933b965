"""From labelled photos to a bundle: reading and checking labels, training, exporting, evaluating."""
