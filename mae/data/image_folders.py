"""A folder of one's own images: what lies in it, which images have labels, and which are for testing.

A folder right in PATH (or in PATH/train/) that holds images itself is a class, with all that lies below it, unless it
is the only one. Other images have no label: those right in PATH, and those below a folder that holds none itself.
Under `images:PATH` no folder is a class.
"""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mae.config.data_section import DataConfig, local_path
from mae.config.resolve import nearest
from mae.data.image_files import EXTENSIONS, PASSING, shown
from mae.errors import RunError, UserError

TRAIN_FOLDER = "train"
TEST_FOLDERS = ("test", "val", "validation")
LAYOUTS = """expected one of
  PATH/train/<class>/<image> and PATH/test/<class>/<image>
  PATH/<class>/<image>, of which a part of every class is held out for testing
  PATH/<image>, or PATH/train/<image> and PATH/test/<image>: images without labels
  images:PATH in place of folder:PATH: all images in PATH or below, without labels"""
ANYWHERE = "expected a folder with images in it or below"

Parts = tuple[str, ...]
"""A path below a folder: `("cat", "1.jpg")`."""


@dataclass
class Contents:
    """What lies below a folder, hidden files and folders left out.

    `images` are in order; `unusable` says why of image files that cannot be read; `endings` counts other files by
    how their names end; `folders` are those right in it; `unfollowed` counts links to folders that were there already.
    """

    images: list[Parts] = field(default_factory=list)
    unusable: dict[Parts, str] = field(default_factory=dict)
    endings: Counter[str] = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)
    unfollowed: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """The folders that are classes, by name."""
        names = sorted({parts[0] for parts in self.images if len(parts) == 2})
        return tuple(names) if len(names) > 1 else ()


@dataclass(frozen=True)
class Part:
    """The image files of a split and their labels, int64 (N,), -1 where there is none."""

    files: list[Path]
    labels: np.ndarray


@dataclass(frozen=True)
class ImageFolder:
    """A folder that was read; without `test`, a part of `train` is to be held out.

    `remarks` say what is not plain from numbers of images and classes; `left_out` has a line per unusable file.
    """

    root: Path
    train: Part
    test: Part | None
    classes: tuple[str, ...]
    remarks: tuple[str, ...]
    left_out: tuple[str, ...]


def read_folder(data: DataConfig, location: str) -> ImageFolder:
    """Return what `data.source=folder:location` has; `UserError` with the layouts that fit if it has none of them.

    A file that cannot be opened (a link to nowhere, a pipe, one that the user may not read) is left out under
    `data.skip_bad_images` and refused otherwise. Those that are broken inside are found when they are decoded.
    """
    root, top = _listed(location, data, LAYOUTS)
    train_name = next((name for name, is_folder in top if is_folder and name.lower() == TRAIN_FOLDER), None)
    if train_name is None:
        contents = _usable({"": contents_of(root)}, root, data, LAYOUTS)[""]
        classes = contents.classes
        _check_classes(root, contents, classes)
        train = _part(root, contents, classes)
        remarks = (_held_out(data), *_remarks(contents, train, classes, "PATH"))
        return ImageFolder(root, train, None, classes, remarks, _left_out([((), contents)]))
    return _with_splits(root, train_name, top, data)


def read_images(data: DataConfig, location: str) -> ImageFolder:
    """Return what `data.source=images:location` has: every image in a folder or below it, without a label.

    `UserError` if there is none. Of files that cannot be opened: see `read_folder`.
    """
    root, _ = _listed(location, data, ANYWHERE)
    contents = _usable({"": contents_of(root)}, root, data, ANYWHERE)[""]
    remarks = (_held_out(data), *_ignored(contents.endings, contents.unfollowed))
    return ImageFolder(root, _part(root, contents, ()), None, (), remarks, _left_out([((), contents)]))


def _with_splits(root: Path, train_name: str, top: list[tuple[str, bool]], data: DataConfig) -> ImageFolder:
    folders = {name.lower(): name for name, is_folder in top if is_folder}
    test_name = next((folders[name] for name in TEST_FOLDERS if name in folders), None)
    if test_name is None:
        others = ", ".join(f"{name}/" for name in folders.values())
        raise UserError(
            f"{shown(root)} has {train_name}/ but none of {', '.join(TEST_FOLDERS)} (found: {others}); add one, or "
            f"give PATH/{train_name}, of which a part is held out; if {train_name} is a class, rename the folder"
        )
    names = train_name, test_name
    both = _usable({name: contents_of(root / name, root) for name in names}, root, data, LAYOUTS)
    classes = both[train_name].classes
    _check_classes(root / train_name, both[train_name], classes)
    _check_test(root / test_name, both[test_name], classes, train_name)
    train, test = (_part(root / name, both[name], classes) for name in names)
    whole = Contents(endings=both[train_name].endings + both[test_name].endings)
    remarks = [f"tested on {test_name}/"] if test_name != TEST_FOLDERS[0] else []
    remarks += [f"{name}/ not used" for name in sorted(set(folders.values()) - {*names})]
    if files := sum(not is_folder for _, is_folder in top):
        remarks.append(f"{_counted(files, 'file')} beside {train_name}/ not used")
    remarks += _remarks(both[train_name], train, classes, f"{train_name}/", whole.endings)
    return ImageFolder(root, train, test, classes, tuple(remarks), _left_out([((name,), both[name]) for name in names]))


def is_image(path: str, is_folder: bool) -> bool:
    """Say whether a path is that of an image file, by its ending."""
    return not is_folder and Path(path).suffix.lower() in EXTENSIONS


def contents_of(root: Path, whole: Path | None = None, wanted: Callable[[str, bool], bool] = is_image) -> Contents:
    """Return what lies below `root`, itself below the folder `whole`, which links must not lead back to.

    `wanted` says of a path, and whether it is that of a folder, if it is one of those that are looked for.
    """
    contents, followed = Contents(), {os.path.realpath(whole or root)}

    def leads_back(path: str) -> bool:
        target = os.path.realpath(path)
        if any(_contains(one, target) or _contains(target, one) for one in followed):
            return True
        followed.add(target)
        return False

    def visit(folder: str, parts: Parts) -> None:
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise _folder_error(Path(folder), error) from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            is_folder, own = _is_folder(entry), (*parts, entry.name)
            if wanted(entry.path, is_folder):
                if reason := "" if is_folder else unreadable(Path(entry.path)):
                    contents.unusable[own] = reason
                else:
                    contents.images.append(own)
            elif not is_folder:
                contents.endings[Path(entry.name).suffix.lower()] += 1
            elif entry.is_symlink() and leads_back(entry.path):
                contents.unfollowed += 1
            else:
                if not parts:
                    contents.folders.append(entry.name)
                visit(entry.path, own)

    visit(str(root), ())
    contents.images.sort()
    return contents


def unreadable(path: Path) -> str:
    """Return why a file cannot be opened as an image, without opening it, or "" if it can be: a pipe would hang.

    `RunError` if the system fails, not the file.
    """
    try:
        found = path.stat()
    except OSError as error:
        dangling = isinstance(error, FileNotFoundError) and path.is_symlink()
        return "it is a link to what is not there" if dangling else _reason(path, error)
    if not stat.S_ISREG(found.st_mode):
        return "it is no regular file, but a pipe, socket or device"
    return "" if os.access(path, os.R_OK) else "Permission denied"


def _reason(path: Path, error: OSError) -> str:
    if error.errno in PASSING:
        raise RunError(f"{shown(path)} cannot be read now: {error.strerror}; the same command tries again")
    return error.strerror or str(error)


def _folder_error(path: Path, error: OSError) -> UserError:
    """A folder is never left out: nobody knows how many images it has, nor whether it is a class."""
    return UserError(f"folder {shown(path)} cannot be read: {_reason(path, error)}")


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _contains(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _listed(location: str, data: DataConfig, expected: str) -> tuple[Path, list[tuple[str, bool]]]:
    """Return a folder and the names right in it, hidden ones left out, and whether each is of a folder."""
    root = local_path(location)
    if not location:
        raise UserError(f"data.source={data.source}: no folder is named; {expected}")
    try:
        with os.scandir(root) as found:
            return root, sorted((entry.name, _is_folder(entry)) for entry in found if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "a file, no folder" if isinstance(error, NotADirectoryError) else f"no such folder{_nearest_to(root)}"
        raise UserError(f"data.source={shown(Path(data.source))}: {what}; {expected}") from None
    except OSError as error:
        raise _folder_error(root, error) from None


def _nearest_to(folder: Path) -> str:
    """Return ", did you mean ...?" of the folders beside where this one is sought, or nothing."""
    try:
        beside = [each.name for each in folder.parent.iterdir() if each.is_dir()]
    except OSError:
        return ""
    return nearest(folder.name, beside)


def _usable(parts: Mapping[str, Contents], root: Path, data: DataConfig, expected: str) -> Mapping[str, Contents]:
    """Return the same; `UserError` if there is no image, or one that cannot be read and may not be left out."""
    unusable = {(name, *path): reason for name, part in parts.items() for path, reason in part.unusable.items()}
    if unusable and not data.skip_bad_images:
        (path, reason), *more = unusable.items()
        others = f", nor {len(more)} other(s)" if more else ""
        raise UserError(
            f"{shown(root.joinpath(*path))} cannot be read{others}: {reason}; mend it, or leave such files out with "
            "data.skip_bad_images=true"
        )
    train = next(iter(parts))
    if not parts[train].images:
        found = "; ".join(_ignored(parts[train].endings, parts[train].unfollowed)) or "nothing"
        if unusable:
            found += f"; {_counted(len(unusable), 'file')} that cannot be read"
        endings = " ".join(sorted(EXTENSIONS))
        raise UserError(f"{shown(root / train)} holds no image ({endings}); found: {found}; {expected}")
    return parts


def _check_classes(root: Path, contents: Contents, classes: tuple[str, ...]) -> None:
    """Raise `UserError` for a folder beside classes that has no image at all: as a class it would be missing."""
    filled = {parts[0] for parts in contents.images}
    if classes and (empty := [name for name in contents.folders if name not in filled]):
        raise UserError(
            f"class folder {shown(root / empty[0])} holds no image ({' '.join(sorted(EXTENSIONS))}); add some, or take "
            "the folder away"
        )


def _check_test(root: Path, contents: Contents, classes: tuple[str, ...], train_name: str) -> None:
    if not contents.images:
        raise UserError(
            f"{shown(root)} holds no image; add some, or give PATH/{train_name}, of which a part is held out"
        )
    if not classes:
        return
    unknown = sorted({parts[0] for parts in contents.images if len(parts) == 2} - {*classes})
    if unknown:
        raise UserError(f"{shown(root)} has classes that {train_name}/ lacks: {', '.join(map(_shown, unknown))}")
    loose = [parts for parts in contents.images if len(parts) == 1 or parts[0] not in classes]
    if loose:
        raise UserError(
            f"{shown(root)} has {_counted(len(loose), 'image')} in no class folder, such as "
            f"{shown(Path(*loose[0]))}, and probes need to know the class; sort them into {shown(root)}/<class>/, or "
            f"give PATH/{train_name}, of which a part is held out"
        )


def _part(root: Path, contents: Contents, classes: tuple[str, ...]) -> Part:
    """Return a folder's images, class by class, and then those of no class."""
    numbers = {name: number for number, name in enumerate(classes)}
    labels = [numbers.get(parts[0], -1) if len(parts) > 1 else -1 for parts in contents.images]
    order = sorted(range(len(labels)), key=lambda index: labels[index] < 0)
    files = [root.joinpath(*contents.images[index]) for index in order]
    return Part(files, np.array([labels[index] for index in order], dtype=np.int64))


def _remarks(
    contents: Contents, train: Part, classes: tuple[str, ...], where: str, endings: Counter[str] | None = None
) -> Iterator[str]:
    if not classes:
        yield f"classes would be folders right in {where} that hold images themselves, two or more"
    elif loose := int((train.labels < 0).sum()):
        yield f"{_counted(loose, 'training image')} without a label, in no class folder"
    yield from _ignored(contents.endings if endings is None else endings, contents.unfollowed)


def _held_out(data: DataConfig) -> str:
    return f"a share of {data.test_fraction:g} held out for testing"


def _ignored(endings: Counter[str], unfollowed: int) -> Iterator[str]:
    if endings:
        most = ", ".join(f"{_shown(ending) or 'none'} {count:,}" for ending, count in endings.most_common(4))
        yield f"{_counted(endings.total(), 'file')} with other endings ignored ({most})"
    if unfollowed:
        yield f"{_counted(unfollowed, 'link')} to folders that are there already not followed"


def _left_out(parts: Sequence[tuple[Parts, Contents]]) -> tuple[str, ...]:
    return tuple(
        f"{shown(Path(*before, *path))}: {reason}"
        for before, contents in parts
        for path, reason in contents.unusable.items()
    )


def _shown(name: str) -> str:
    return shown(Path(name)) if name else ""


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
