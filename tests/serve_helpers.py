"""What the tests of the server share: a run that was not trained, and an image file."""

import io

import numpy as np
from PIL import Image

from jaxcnn import data
from jaxcnn.config import schema
from jaxcnn.config.settings import Settings
from jaxcnn.exchange import importing
from jaxcnn.models import pretrained


def write_run(folder, seed=5):
    """Writes the run of a LeNet on digits with random weights, large enough for clear answers."""
    config = schema.use_dataset(schema.default_config(), "digits")
    config.dataset.train_split, config.dataset.eval_split = "train[:512]", "test[:100]"
    config.model.name = "lenet"
    settings = Settings.resolve(config, data.load(**config.dataset))
    rng, model = np.random.default_rng(seed), settings.create_model()
    arrays = {
        path: rng.normal(0, (4 / max(1, np.prod(shape[:-1]))) ** 0.5, shape).astype(np.float32)
        for path, shape in pretrained.shapes(model, settings.facts.image_shape).items()
    }
    importing.write_run(folder, settings, arrays, {})
    return folder


def image_file(size=(40, 30), kind="PNG", mode="RGB"):
    """Returns the content of an image file of noise, width and height given."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(content, kind)
    return content.getvalue()
