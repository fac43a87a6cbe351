"""Keras `fit` on arrays in memory: the same architectures in its layers, the same augmentation where it has one."""

import os
from typing import Any

import numpy as np

from cnntrain.runtime.devices import choose_device, choose_precision
from scripts.bench.work import DATA, Clock, Data, Task, pictures


def augmenting(layers: Any, name: str) -> list[Any]:
    """Return Keras's layers for an augmentation."""
    crop = layers.RandomTranslation(4 / 32, 4 / 32, fill_mode="reflect", interpolation="nearest")
    return {"none": [], "crop_flip": [crop, layers.RandomFlip("horizontal")]}[name]


def lenet5(layers: Any, x: Any, classes: int) -> Any:
    """LeNet-5 as cnntrain builds it for 28×28 images."""
    x = layers.MaxPooling2D()(layers.Conv2D(6, 5, padding="same", activation="relu")(x))
    x = layers.MaxPooling2D()(layers.Conv2D(16, 5, activation="relu")(x))
    x = layers.Dense(84, activation="relu")(layers.Dense(120, activation="relu")(layers.Flatten()(x)))
    return layers.Dense(classes, dtype="float32")(x)


def resnet20(layers: Any, x: Any, classes: int) -> Any:
    """ResNet-20 with the parameter-free shortcuts."""

    def normed(x: Any, width: int, stride: int = 1) -> Any:
        pad = layers.ZeroPadding2D(1)(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(
            layers.Conv2D(width, 3, stride, use_bias=False, kernel_initializer="he_normal")(pad)
        )

    x = layers.ReLU()(normed(x, 16))
    for group, width in enumerate((16, 32, 64)):
        for block in range(3):
            stride = 2 if group and not block else 1
            y = normed(layers.ReLU()(normed(x, width, stride)), width)
            if stride == 2:
                x = layers.AveragePooling2D(1, 2)(x)
                x = layers.Concatenate()([x, layers.Rescaling(0.0)(x)])
            x = layers.ReLU()(layers.Add()([x, y]))
    return layers.Dense(classes, dtype="float32")(layers.GlobalAveragePooling2D()(x))


NETWORKS = {"lenet5": lenet5, "resnet20": resnet20}


def arrays(task: Task, data: Data) -> tuple[Any, Any]:
    """Return the images of a task, normalised float32 [N, H, W, C], and their labels."""
    images = pictures(task, lambda image: np.asarray(image, dtype=np.float32).reshape(*data.shape[1:], -1) / 255)
    x = np.stack([images[i][0] for i in range(len(images))])
    y = np.array([images[i][1] for i in range(len(images))])
    return (x - np.array(data.mean, np.float32)) / np.array(data.std, np.float32), y


def fit(task: Task, clock: Clock, backend: str, best: bool = False) -> None:
    """Train with the defaults of `compile`, or with `best` without a progress bar and, on a machine with bf16, in
    mixed_bfloat16.
    """
    os.environ["KERAS_BACKEND"] = backend
    import keras
    from keras import layers

    if best and choose_precision("auto", choose_device("auto")) == "bf16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    data = DATA[task.data]
    inputs = x = keras.Input((*data.shape[1:], data.shape[0]))
    for layer in augmenting(layers, task.augmentation):
        x = layer(x)
    net = keras.Model(inputs, NETWORKS[task.network](layers, x, data.classes))
    clock.note(parameters=sum(int(np.prod(weight.shape)) for weight in net.trainable_weights))
    optimizer = keras.optimizers.SGD(task.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    net.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    class Timer(keras.callbacks.Callback):  # type: ignore[misc]
        """Reports epochs to the clock."""

        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            clock.begin()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            clock.end(task.steps * task.batch_size, float(logs["loss"]))

    images, labels = arrays(task, data)
    whole = task.steps * task.batch_size
    shown = 0 if best else "auto"
    net.fit(images[:whole], labels[:whole], task.batch_size, 1 + task.epochs, verbose=shown, callbacks=[Timer()])
