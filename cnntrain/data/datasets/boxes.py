"""Folders of images with boxes: PASCAL VOC's XML, YOLO's text files, COCO's JSON."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np
import yaml

from cnntrain.data.augment.boxes import padded
from cnntrain.data.datasets.folder import SPLITS, missing_folder, subfolders
from cnntrain.data.datasets.listing import image_files
from cnntrain.data.storage.decode import pillow_rules, upright_size
from cnntrain.data.storage.images import Dataset, DatasetInfo, Files, Split
from cnntrain.runtime.errors import InputError, as_text, listed, nearest
from cnntrain.runtime.ranges import Count

BoxFormat = Literal["auto", "voc", "yolo", "coco"]
NAMES = ("classes.txt", "obj.names")  # of YOLO's classes
OTHER_SHAPE = 0.05  # by which the ratio of the sides may differ from that of an annotation
BEYOND = 1.0  # pixels that a box may reach over the border: some programs count from 1


class Box(NamedTuple):
    """A box in pixels of its image, from edge to edge."""

    name: str
    left: float
    top: float
    right: float
    bottom: float
    difficult: bool = False


class Annotated(NamedTuple):
    """An image with its boxes."""

    path: str  # relative to the dataset's folder
    size: tuple[int, int] | None  # height and width; None where the annotation does not say
    boxes: list[Box]
    source: Path  # of the annotation, for messages


Parts = dict[str, list[Annotated]]


@dataclass(frozen=True)
class BoxFolder:
    """Images with boxes around objects, scaled to `image_size` pixels a side whatever their shape.

    The format is found: VOC (Annotations, JPEGImages, ImageSets/Main), COCO (annotations/*.json) or YOLO (images and
    labels). `bad_boxes=skip` leaves out boxes without area or outside their image, and says how many.
    """

    root: Path
    format: BoxFormat = "auto"
    class_names: Sequence[str] | None = None
    image_size: Count = 448
    channels: Literal[1, 3] = 3
    bad_boxes: Literal["stop", "skip"] = "stop"

    def info(self) -> DatasetInfo:
        """Return the classes; mean and standard deviation are 0 and 1 until `divide` measures them."""
        shape = (self.channels, self.image_size, self.image_size)
        empty = (0.0,) * self.channels, (1.0,) * self.channels
        return DatasetInfo("boxes", self.names, shape, *empty, "boxes", called=self.root.resolve().name)

    def read(self) -> Dataset:
        """Return the images of each split, still in their files, with their boxes."""
        info, splits, left_out = self.info(), dict[str, Split](), 0
        side = self.image_size
        for part, images in self.parts.items():
            labels = []
            with pillow_rules():
                for image in images:
                    boxes, bad = self.checked(image, info.classes)
                    labels.append(boxes)
                    left_out += bad
            files = Files(
                self.root, [image.path for image in images], (side, side), self.channels, resize=True, stretch=True
            )
            splits[part] = Split(files, padded(labels))
        remarks = (f"warning: {left_out} boxes without area or outside their images are left out",) if left_out else ()
        return Dataset(info, splits["train"], splits.get("val"), splits.get("test"), remarks=remarks)

    def checked(self, image: Annotated, classes: Sequence[str]) -> tuple[np.ndarray, int]:
        """Return the boxes of an image, float32 [n, 6] in pixels of `image_size`, and how many are left out.

        Raises `InputError` for a box of an unknown class, of no area or outside its image.
        """
        height, width = checked_size(image, self.root)
        rows, bad = list[tuple[float, ...]](), 0
        for box in image.boxes:
            if box.name not in classes:
                match = nearest(box.name, classes)
                hint = f"; did you mean {match}?" if match else f"; they are {listed(classes)}"
                raise InputError(f"{as_text(image.source)}: there is no class {box.name!r}{hint}")
            left, top, right, bottom = (float(value) for value in box[1:5])
            inside = min(left, top) >= -BEYOND and right <= width + BEYOND and bottom <= height + BEYOND
            left, right = np.clip((left, right), 0, width)
            top, bottom = np.clip((top, bottom), 0, height)
            if not inside or right <= left or bottom <= top:
                if self.bad_boxes == "stop":
                    why = "has no area" if inside else f"lies outside its image of {width}×{height}"
                    corners = ", ".join(f"{value:g}" for value in box[1:5])
                    raise InputError(
                        f"{as_text(image.source)}: the box {corners} of {box.name} {why}; dataset.bad_boxes=skip "
                        "leaves such boxes out"
                    )
                bad += 1
                continue
            scaled = np.array([left, top, right, bottom]) * ([self.image_size / width, self.image_size / height] * 2)
            rows.append((classes.index(box.name), *scaled, box.difficult))
        return np.array(rows, dtype=np.float32).reshape(-1, 6), bad

    @cached_property
    def parts(self) -> Parts:
        """The images of each split."""
        if not self.root.is_dir():
            raise missing_folder(self.root)
        read = {"voc": read_voc, "yolo": self.read_yolo, "coco": read_coco}
        chosen = self.format if self.format != "auto" else found_format(self.root)
        parts = read[chosen](self.root)
        if not parts.get("train"):
            raise InputError(f"{self.root} holds no images with boxes for train")
        return parts

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes, given or found."""
        if self.class_names is not None:
            return tuple(self.class_names)
        return tuple(sorted({box.name for images in self.parts.values() for image in images for box in image.boxes}))

    def read_yolo(self, root: Path) -> Parts:
        """Return the images of folders `images` and `labels`: a line a box, class number, middle and size as shares."""
        names = self.class_names or yolo_names(root)
        parts = Parts()
        for part, (images, labels) in yolo_folders(root).items():
            annotated = []
            for path in by_name(images, lambda path: path.with_suffix("")).values():
                file = labels / Path(path).with_suffix(".txt")
                if not file.is_file():
                    raise InputError(
                        f"the image {as_text(images / path)} has no boxes in {file}; an empty file has none"
                    )
                with pillow_rules():
                    height, width = upright_size(images / path)
                boxes = [yolo_box(line, file, names, (height, width)) for line in lines_of(file)]
                annotated.append(Annotated((images / path).relative_to(root).as_posix(), (height, width), boxes, file))
            alone = {file.stem for file in labels.glob("*.txt") if file.name not in NAMES}
            if alone := alone - {Path(image.path).stem for image in annotated}:
                raise InputError(f"{labels / sorted(alone)[0]}.txt has boxes of an image that is not in {images}")
            parts[part] = annotated
        return parts


def found_format(root: Path) -> BoxFormat:
    """Return the format in which the boxes of a folder lie."""
    if (root / "Annotations").is_dir():
        return "voc"
    if any((root / "annotations").glob("*.json")):
        return "coco"
    if yolo_folders(root):
        return "yolo"
    raise InputError(
        f"{root} holds {listed(subfolders(root)) or 'no folders'}: boxes are looked for in Annotations/*.xml (VOC), "
        "annotations/*.json (COCO) or labels/*.txt beside images (YOLO)"
    )


def checked_size(image: Annotated, root: Path) -> tuple[int, int]:
    """Return the height and width that the boxes of an image are in.

    The file may be smaller or larger, as after scaling. Raises `InputError` where it has another shape, as one that is
    stored on its side: then nobody knows where its boxes lie.
    """
    with pillow_rules():
        height, width = upright_size(root / image.path)
    tall, wide = image.size or (height, width)
    if abs(wide * height - tall * width) > OTHER_SHAPE * tall * width:
        raise InputError(
            f"{as_text(image.source)}: its boxes are in an image of {wide}×{tall} pixels, and {as_text(image.path)} is "
            f"seen with {width}×{height}"
        )
    return tall, wide


def by_name(folder: Path, name: Callable[[Path], Path | str]) -> dict[Path | str, str]:
    """Return the image files below a folder, relative to it, by what `name` makes of their paths.

    Raises `InputError` where two have one name, since nobody knows whose boxes are whose.
    """
    paths = dict[Path | str, str]()
    for path in image_files(folder)[0]:
        if (other := paths.setdefault(name(Path(path)), path)) != path:
            raise InputError(f"the images {as_text(other)} and {as_text(path)} in {folder} have one name; rename one")
    return paths


def part_of(word: str) -> str | None:
    """Return the split that a name stands for: instances_val2017 is of val."""
    return next((part for part, words in SPLITS.items() if any(known in word.lower() for known in words)), None)


# PASCAL VOC.


def read_voc(root: Path) -> Parts:
    """Return the images that the lists of ImageSets/Main name; without lists all are for training."""
    lists = {part: root / "ImageSets" / "Main" / f"{part}.txt" for part in ("train", "val", "test")}
    named = {part: [line.split()[0] for line in lines_of(file)] for part, file in lists.items() if file.is_file()}
    both = root / "ImageSets" / "Main" / "trainval.txt"
    if not named.keys() & {"train", "val"} and both.is_file():
        named["train"] = [line.split()[0] for line in lines_of(both)]
    if not named:
        named = {"train": sorted(file.stem for file in (root / "Annotations").glob("*.xml"))}
    images = by_name(root / "JPEGImages", lambda path: path.stem)
    return {part: [voc_image(root, name, images) for name in names] for part, names in named.items()}


def voc_image(root: Path, name: str, images: Mapping[Path | str, str]) -> Annotated:
    """Return an image and the objects of its XML file, whose pixels are counted from 1, the last included.

    Raises `InputError` for a missing image or annotation, and for XML that is broken.
    """
    file = root / "Annotations" / f"{name}.xml"
    if name not in images:
        raise InputError(f"{as_text(file)} has no image {name} in {root / 'JPEGImages'}")
    try:
        tree = ElementTree.parse(file).getroot()  # noqa: S314 - expat refuses entities that expand without bound
        size = tree.find("size")
        boxes = [voc_box(each) for each in tree.iter("object")]
        wide, high = (int(size.findtext(key) or 0) for key in ("width", "height")) if size is not None else (0, 0)
    except FileNotFoundError as error:
        raise InputError(f"the image {images[name]} has no annotation {as_text(file)}") from error
    except (ElementTree.ParseError, ValueError, TypeError, OSError) as error:
        raise InputError(f"{as_text(file)} is no annotation of PASCAL VOC: {error}") from error
    return Annotated(f"JPEGImages/{images[name]}", (high, wide) if high and wide else None, boxes, file)


def voc_box(element: ElementTree.Element) -> Box:
    """Return an object of an annotation, from its first pixel's edge to the last one's."""
    corners = element.find("bndbox")
    if corners is None:
        raise ValueError("an object has no bndbox")
    left, top, right, bottom = (float(corners.findtext(key) or "nan") for key in ("xmin", "ymin", "xmax", "ymax"))
    if np.isnan((left, top, right, bottom)).any():
        raise ValueError("a bndbox lacks one of xmin, ymin, xmax, ymax")
    difficult = (element.findtext("difficult") or "0").strip() == "1"
    empty = right <= left or bottom <= top
    return Box(
        (element.findtext("name") or "").strip(), left - (not empty), top - (not empty), right, bottom, difficult
    )


# YOLO.


def yolo_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Return the folders of images and labels of each split."""
    found = dict[str, tuple[Path, Path]]()
    for part, words in SPLITS.items():
        for word in [name for name in subfolders(root) if name.lower() in words]:
            found[part] = root / word / "images", root / word / "labels"
        if (root / "images").is_dir():
            for word in [name for name in subfolders(root / "images") if name.lower() in words]:
                found[part] = root / "images" / word, root / "labels" / word
    if not found and (root / "labels").is_dir():
        found = {"train": (root / "images", root / "labels")}
    return {part: places for part, places in found.items() if all(place.is_dir() for place in places)}


def yolo_names(root: Path) -> list[str]:
    """Return the names of classes.txt or obj.names, which some programs put beside the labels, or of data.yaml.

    Raises `InputError` where there is none of them.
    """
    places = [root, *(labels for _, labels in yolo_folders(root).values())]
    for file in (place / name for place in places for name in NAMES):
        if file.is_file():
            return lines_of(file)
    if (file := root / "data.yaml").is_file():
        return yaml_names(file)
    raise InputError(
        f"{root} has neither classes.txt nor data.yaml: name the classes in their order with dataset.class_names=[...]"
    )


def yaml_names(file: Path) -> list[str]:
    """Return the `names` of a data.yaml, a list or a mapping from numbers.

    Raises `InputError` where it has none.
    """
    try:
        names = yaml.safe_load(file.read_text(encoding="utf-8"))["names"]
        numbered = dict(enumerate(names)) if isinstance(names, list) else dict(names)
        return [str(numbered[number]) for number in range(len(numbered))]
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} does not name the classes, as names: [cat, dog] would") from error


def yolo_box(line: str, file: Path, names: Sequence[str], size: tuple[int, int]) -> Box:
    """Return the box of a line: class number, middle and size as shares of the image."""
    height, width = size
    try:
        number, x, y, wide, high = (float(word) for word in line.split())
        name = names[int(number)] if number >= 0 else ""
    except (ValueError, IndexError) as error:
        raise InputError(
            f"{as_text(file)}: {line!r} is no box: a class from 0 to {len(names) - 1}, and middle, width and height as "
            "shares of the image"
        ) from error
    return Box(name, (x - wide / 2) * width, (y - high / 2) * height, (x + wide / 2) * width, (y + high / 2) * height)


# COCO.


def read_coco(root: Path) -> Parts:
    """Return the images of the files in `annotations`, of which each is of the split that its name says.

    Beside `instances_*.json` COCO has files of captions and keypoints, which are passed over.
    """
    parts, sources = Parts(), dict[str, Path]()
    every = sorted((root / "annotations").glob("*.json"))
    files = [file for file in every if file.name.startswith("instances_")] or every
    places = defaultdict[str, list[str]](list)
    for path in image_files(root)[0]:
        places[Path(path).name].append(path)
    for file in files:
        part = part_of(file.stem) or ("train" if len(files) == 1 else None)
        if part is None:
            raise InputError(f"{file} has none of train, val and test in its name")
        if (other := sources.setdefault(part, file)) != file:
            raise InputError(f"{other.name} and {file.name} in {file.parent} are both for {part}; keep one")
    for part, file in sources.items():
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
            parts[part] = coco_images(root, file, held, places, part)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file} is no file of COCO's objects: {type(error).__name__} {error}") from error
    return parts


def coco_images(
    root: Path, file: Path, held: dict[str, Any], places: Mapping[str, list[str]], part: str
) -> list[Annotated]:
    """Return the images of a file with the boxes around its objects; crowds are difficult."""
    names = {category["id"]: category["name"] for category in held["categories"]}
    boxes: dict[int, list[Box]] = {image["id"]: [] for image in held["images"]}
    for each in held["annotations"]:
        if each["image_id"] not in boxes:
            raise InputError(f"{file}: object {each.get('id')} is of the image {each['image_id']}, which is not there")
        left, top, width, height = map(float, each["bbox"])
        box = Box(names[each["category_id"]], left, top, left + width, top + height, bool(each.get("iscrowd")))
        boxes[each["image_id"]].append(box)
    images = []
    for image in held["images"]:
        path = coco_path(Path(image["file_name"]), places, part)
        if path is None:
            raise InputError(f"{file} names the image {as_text(image['file_name'])}, which is not below {root}")
        images.append(Annotated(path, (image["height"], image["width"]), boxes[image["id"]], file))
    return images


def coco_path(name: Path, places: Mapping[str, list[str]], part: str) -> str | None:
    """Return the image of a name among files by theirs: of several that of the folder of the split `part`.

    Raises `InputError` where more than one is left.
    """
    ends = [path for path in places.get(name.name, []) if Path(path).parts[-len(name.parts) :] == name.parts]
    ends = ends or list(places.get(name.name, []))
    if len(ends) > 1:
        ends = [path for path in ends if any(part_of(folder) == part for folder in Path(path).parts[:-1])] or ends
    if len(ends) > 1:
        raise InputError(f"{as_text(ends[0])} and {as_text(ends[1])} have the name of one image of {part}; rename one")
    return ends[0] if ends else None


def lines_of(file: Path) -> list[str]:
    """Return the lines of a text file that are not empty."""
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
