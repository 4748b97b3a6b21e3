"""The verbs of the command `jaxcnn`, one module each; `jaxcnn.cli` has the table of them."""
