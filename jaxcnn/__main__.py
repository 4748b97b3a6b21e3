"""python -m jaxcnn: the same as the command `jaxcnn`."""

from jaxcnn import cli

if __name__ == "__main__":
    cli.main()
