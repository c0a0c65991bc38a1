"""tf.data's way from a folder of JPEG files to batches of random crops, for race_input.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf


def cropped_batches(folder: Path, size: int, batch_size: int) -> Iterator[Any]:
    """Batches of random crops, uint8 [batch_size, size, size, 3], made by one thread."""

    def crop(path: Any) -> Any:
        contents = tf.io.read_file(path)
        shape = tf.io.extract_jpeg_shape(contents)
        whole = tf.zeros([1, 1, 4], tf.float32)
        start, extent, _ = tf.image.sample_distorted_bounding_box(
            shape, whole, area_range=(0.08, 1.0), aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10, use_image_if_no_bounding_boxes=True, min_object_covered=0,
        )  # fmt: skip
        window = tf.concat([start[:2], extent[:2]], axis=0)
        image = tf.io.decode_and_crop_jpeg(contents, window, channels=3)
        image = tf.image.random_flip_left_right(tf.image.resize(image, (size, size)))
        return tf.cast(image, tf.uint8)

    dataset = tf.data.Dataset.list_files(str(folder / "train" / "*" / "*")).repeat().map(crop)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.autotune.enabled = False
    return dataset.batch(batch_size).with_options(options).as_numpy_iterator()
