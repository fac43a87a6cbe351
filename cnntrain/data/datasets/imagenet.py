"""ImageNet and its small relatives: a local copy of the first, the others downloaded once, all as image folders."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from cnntrain.data.datasets.archives import Archive, bring
from cnntrain.data.datasets.downloads import absent, once
from cnntrain.data.datasets.folder import class_files, class_names, refuse_small_store, subfolders
from cnntrain.data.storage.images import Dataset, DatasetInfo, Files, Split
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.ranges import Count

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the training pixels, as torchvision's models take them
FASTAI = "https://s3.amazonaws.com/fast-ai-imageclas"
# The md5 of Imagenette is torchvision's, that of Tiny ImageNet the one that several loaders hold it to; the sha256 of
# Imagewoof is FastAI.jl's, its size fastai's.
ARCHIVES = {
    "imagenette": Archive(
        f"{FASTAI}/imagenette2-320.tgz",
        "imagenette2-320",
        341_663_724,
        "md5:3df6f0d01a2c9592104656642f5e78a3",
        most_files=30_000,
    ),
    "imagewoof": Archive(
        f"{FASTAI}/imagewoof2-320.tgz",
        "imagewoof2-320",
        328_387_740,
        "sha256:4e4905ed7643120daaf9bf3b2ef7f3a7e8396d9bdaf254a38c6f01f618b4973d",
        most_files=30_000,
    ),
    "tiny_imagenet": Archive(
        "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "tiny-imagenet-200",
        248_100_043,
        "md5:90528d7ca1a48142e341f4ef8d21d0de",
        most_files=250_000,
    ),
}
FOLDERS = {"imagenet": "imagenet", **{name: archive.folder for name, archive in ARCHIVES.items()}}
NETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
WOOF = {
    "n02086240": "Shih-Tzu",
    "n02087394": "Rhodesian ridgeback",
    "n02088364": "beagle",
    "n02089973": "English foxhound",
    "n02093754": "Border terrier",
    "n02096294": "Australian terrier",
    "n02099601": "golden retriever",
    "n02105641": "Old English sheepdog",
    "n02111889": "Samoyed",
    "n02115641": "dingo",
}
TINY = """
01443537 01629819 01641577 01644900 01698640 01742172 01768244 01770393 01774384 01774750 01784675
01855672 01882714 01910747 01917289 01944390 01945685 01950731 01983481 01984695 02002724 02056570
02058221 02074367 02085620 02094433 02099601 02099712 02106662 02113799 02123045 02123394 02124075
02125311 02129165 02132136 02165456 02190166 02206856 02226429 02231487 02233338 02236044 02268443
02279972 02281406 02321529 02364673 02395406 02403003 02410509 02415577 02423022 02437312 02480495
02481823 02486410 02504458 02509815 02666196 02669723 02699494 02730930 02769748 02788148 02791270
02793495 02795169 02802426 02808440 02814533 02814860 02815834 02823428 02837789 02841315 02843684
02883205 02892201 02906734 02909870 02917067 02927161 02948072 02950826 02963159 02977058 02988304
02999410 03014705 03026506 03042490 03085013 03089624 03100240 03126707 03160309 03179701 03201208
03250847 03255030 03355925 03388043 03393912 03400231 03404251 03424325 03444034 03447447 03544143
03584254 03599486 03617480 03637318 03649909 03662601 03670208 03706229 03733131 03763968 03770439
03796401 03804744 03814639 03837869 03838899 03854065 03891332 03902125 03930313 03937543 03970156
03976657 03977966 03980874 03983396 03992509 04008634 04023962 04067472 04070727 04074963 04099969
04118538 04133789 04146614 04149813 04179913 04251144 04254777 04259630 04265275 04275548 04285008
04311004 04328186 04356056 04366367 04371430 04376876 04398044 04399382 04417672 04456115 04465501
04486054 04487081 04501370 04507155 04532106 04532670 04540053 04560804 04562935 04596742 04597913
06596364 07579787 07583066 07614500 07615774 07695742 07711569 07715103 07720875 07734744 07747607
07749582 07753592 07768694 07871810 07873807 07875152 07920052 09193705 09246464 09256479 09332890
09428293 12267677
"""
WORDS: dict[str, dict[str, str]] = {  # for the names of folders; those of ImageNet are as they are in the copy
    "imagenet": {},
    "imagenette": NETTE,
    "imagewoof": WOOF,
    "tiny_imagenet": {f"n{number}": f"n{number}" for number in TINY.split()},
}
ANNOTATIONS = "val_annotations.txt"  # of Tiny ImageNet: a file and its class in each line


def located(name: str, root: Path) -> Path | None:
    """Return the folder of class folders of `name`: below `root`, or `root` itself; None where neither is one.

    Class folders are named by WordNet's numbers, such as n01440764.
    """
    for folder in (root / FOLDERS[name], root):
        names = subfolders(folder / "train") if (folder / "train").is_dir() else []
        if names and all(re.fullmatch(r"n\d{8}", name) for name in names):
            return folder
    return None


@dataclass(frozen=True)
class ImageNet:
    """A dataset of `FOLDERS`, kept at `stored_size` and seen at `image_size` pixels a side; val is its test set."""

    name: str
    root: Path
    image_size: Count = 224
    stored_size: Count | None = None

    def info(self) -> DatasetInfo:
        """Return ImageNet's mean and deviation, and the classes of the copy, or all that there are without one."""
        refuse_small_store(self.image_size, self.stored_size)
        words, folder = WORDS[self.name], located(self.name, self.root)
        if folder is not None:
            classes = tuple(words.get(number, number) for number in subfolders(folder / "train"))
        else:
            classes = tuple(words.values()) or tuple(str(number) for number in range(1000))
        return DatasetInfo(self.name, classes, (3, self.image_size, self.image_size), MEAN, STD)

    def read(self) -> Dataset:
        """Return the images still in their files; downloaded if need be.

        Raises `InputError` for a copy that is none, or when it cannot be downloaded.
        """
        refuse_small_store(self.image_size, self.stored_size)
        folder = located(self.name, self.root) or fetched(self.name, self.root)
        train, val = folder / "train", folder / "val"
        annotated = (val / ANNOTATIONS).is_file() and (val / "images").is_dir()
        alike = {"train": train, "val": val} if val.is_dir() and not annotated else {"train": train}
        numbers = class_names(folder, alike)
        test = None
        if annotated:
            test = self.split(val / "images", *annotations(val / ANNOTATIONS, numbers))
        elif val.is_dir():
            test = self.split(val, *class_files(val, numbers))
        return Dataset(self.info(), self.split(train, *class_files(train, numbers)), None, test)

    def split(self, folder: Path, paths: list[str], labels: list[int], *_: object) -> Split:
        """Return files in a folder with their labels."""
        side = self.stored_size or self.image_size
        return Split(Files(folder, paths, (side, side), 3, resize=True), torch.tensor(labels))


def annotations(file: Path, classes: tuple[str, ...]) -> tuple[list[str], list[int]]:
    """Return the files that Tiny ImageNet's list gives to one of `classes`, and their labels."""
    rows = [line.split("\t")[:2] for line in file.read_text(encoding="utf-8").splitlines() if line]
    if any(len(row) < 2 for row in rows):
        raise InputError(f"{file} does not hold a file and its class in each line")
    label = {name: number for number, name in enumerate(classes)}
    pairs = [(path, label[name]) for path, name in rows if name in label]
    return [path for path, _ in pairs], [number for _, number in pairs]


def fetched(name: str, root: Path) -> Path:
    """Return the folder of `name` below `root` once it is there, complete."""
    archive = ARCHIVES.get(name)
    if archive is None:
        raise InputError(
            f"there is no ImageNet in {(root / FOLDERS[name]).resolve()}: put its folders train and val there, with a "
            "folder for each class (n01440764 and so on), or name the folder that has them with dataset.root=..."
        )
    try:
        once(name, root, lambda: located(name, root) is not None, partial(bring, [archive], root))
    except (InputError, OSError) as error:
        raise InputError(absent(name, root, [archive.name], error)) from error
    if (folder := located(name, root)) is None:
        raise InputError(f"{root / archive.folder} holds no class folders in train")
    return folder
