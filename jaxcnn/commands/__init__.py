"""The verbs of the command `jaxcnn`, one module each; the table of them is in `jaxcnn.cli`."""
