"""What a user may set, what was decided, and which older configurations are the same."""

from jaxcnn.config.schema import default_config, use_dataset

__all__ = ["default_config", "use_dataset"]
