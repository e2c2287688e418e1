"""CVAT: annotations as XML 1.1 ("CVAT for images"), with a shape of one point a pixel.

CVAT counts places from the picture's corner, so that pixel (0, 0) reaches from 0 to 1; a pixel is
told by its centre, with the two decimals that CVAT has. Open questions are labelled "Asked". What
CVAT does not know of (annotator, seconds, time) are attributes of the labels.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.parsers import expat

from active_learning.answers import Answer
from active_learning.exchange.tasks import (
    ASKED,
    COLOURS,
    MARKS,
    MOST_BYTES,
    Asked,
    Found,
    Pictures,
    Task,
    Whose,
    annotator_of,
    number,
    pixel_of,
    read_mark,
    seconds_of,
    told,
    write_parts,
)
from utils.errors import UserError
from utils.files import read_up_to, write_json

ATTRIBUTES = ("annotator", "seconds", "time")
_NOT_XML = re.compile("[^ -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(path: Path, tasks: Sequence[Task]) -> list[Path]:
    """Write the questions and answers as annotations.

    Beside them ``<name>.labels.json`` is written, for the raw editor of labels of a CVAT task.

    Returns:
        The files of annotations, see `write_parts`.

    Raises:
        UserError: an image's name holds a character that XML has not.
    """
    written = write_parts(path, map(_image, tasks), _annotations)
    write_json(path.with_suffix(".labels.json"), _labels())
    return written


def _annotations(images: Sequence[str]) -> str:
    """Return a file's text: its images, numbered, and what they have in common."""
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    _describe(ET.SubElement(ET.SubElement(root, "meta"), "task"), len(images))
    ET.indent(root)
    head = ET.tostring(root, "unicode").removesuffix("</annotations>")
    body = "".join(f'  <image id="{number}"{image}\n' for number, image in enumerate(images))
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}{body}</annotations>'


def _image(task: Task) -> str:
    """Return an image's element without its beginning, to which a file adds the number."""
    if _NOT_XML.search(task.image):
        raise UserError(f"image {task.image!r}: XML cannot hold this name: rename the file")
    size = {"width": str(task.width), "height": str(task.height)}
    image = ET.Element("image", {"name": task.image, **size})
    for asked in task.asked:
        for answer in asked.answers or (None,):
            _point(image, asked, answer)
    ET.indent(image, level=1)
    return ET.tostring(image, "unicode").removeprefix("<image")


def _describe(task: ET.Element, images: int) -> None:
    """Tell what the annotations are of: the labels and their attributes."""
    for name, text in {"name": "points", "size": str(images), "mode": "annotation"}.items():
        ET.SubElement(task, name).text = text
    labels = ET.SubElement(task, "labels")
    for known in _labels():
        label = ET.SubElement(labels, "label")
        for name in ("name", "color", "type"):
            ET.SubElement(label, name).text = known[name]
        attributes = ET.SubElement(label, "attributes")
        for of_label in known["attributes"]:
            attribute = ET.SubElement(attributes, "attribute")
            for name, value in of_label.items():
                text = "".join(value) if isinstance(value, list) else str(value)
                ET.SubElement(attribute, name).text = text


def _labels() -> list[dict[str, Any]]:
    """Return the labels as CVAT is told of them."""
    text = {"mutable": False, "input_type": "text", "default_value": "", "values": [""]}
    attributes = [{"name": name, **text} for name in ATTRIBUTES]
    return [
        {"name": label, "color": colour, "type": "points", "attributes": attributes}
        for label, colour in COLOURS.items()
    ]


def _point(image: ET.Element, asked: Asked, answer: Answer | None) -> None:
    place = {"occluded": "0", "points": f"{asked.x + 0.5:.2f},{asked.y + 0.5:.2f}"}
    label = MARKS[answer.answer] if answer else ASKED
    shape = {"label": label, "source": "manual", **place, "z_order": "0"}
    point = ET.SubElement(image, "points", shape)
    if answer:
        for name in ATTRIBUTES:
            text = str(getattr(answer, name))
            ET.SubElement(point, "attribute", name=name).text = text


def read(path: Path, pictures: Pictures, whose: Whose) -> list[Found]:
    """Read the answers of a file of annotations, whose shapes other than points are passed over.

    An answer is by the annotator of its attributes, unless ``whose`` says otherwise.

    Raises:
        UserError: the file cannot be read, declares a document type (nothing of ours does, and
            entities could blow it up), or holds what cannot be meant; names the line.
    """
    data = read_up_to(path, MOST_BYTES)
    reader = _Reader(path, pictures, whose)
    try:
        reader.parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise UserError(f"{path}: not readable as XML ({told(str(error))}): mend it") from None
    if reader.root != "annotations":
        raise UserError(f"{path}: no annotations of CVAT: export as 'CVAT for images 1.1'")
    return reader.found


class _Reader:
    """Reads a file from start to end; keeps the image and the shape that it is in."""

    def __init__(self, path: Path, pictures: Pictures, whose: Whose) -> None:
        self.found: list[Found] = []
        self.root = ""
        self._path, self._pictures, self._whose = path, pictures, whose
        self._image = ""
        self._known = False
        self._shape: dict[str, str] | None = None
        self._where = ""
        self._attribute = ""
        self._texts: dict[str, list[str]] = {}
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._refuse

    def _refuse(self, *_: Any) -> None:
        raise UserError(f"{self._line()}: declares a document type: remove the DOCTYPE")

    def _line(self) -> str:
        return f"{self._path}, line {self.parser.CurrentLineNumber}"

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.root = self.root or name
        if name == "image":
            self._begin_image(attributes)
        elif name == "points":
            if not self._image:
                raise UserError(f"{self._line()}: points in no image: mend the file")
            self._shape, self._where, self._texts = attributes, self._line(), {}
        elif name == "attribute" and self._shape is not None:
            self._attribute = attributes.get("name", "")

    def _begin_image(self, attributes: dict[str, str]) -> None:
        where = self._line()
        if not attributes.get("name"):
            raise UserError(f"{where}: an image without a name: mend the file")
        found = self._pictures.find(attributes["name"])
        self._image, self._known = found or attributes["name"], found is not None
        if found is not None:
            size = (number(attributes.get(name, ""), name, where) for name in ("width", "height"))
            self._pictures.check_size(found, *size, where)

    def _text(self, text: str) -> None:
        if self._attribute:
            self._texts.setdefault(self._attribute, []).append(text)

    def _end(self, name: str) -> None:
        if name == "attribute":
            self._attribute = ""
        elif name == "image":
            self._image = ""
        elif name == "points" and self._shape is not None:
            self._end_shape(self._shape)
            self._shape = None

    def _end_shape(self, shape: dict[str, str]) -> None:
        where = self._where
        answer = read_mark(shape.get("label"), where)
        if not answer:
            return
        texts = {name: "".join(parts).strip() for name, parts in self._texts.items()}
        annotator = annotator_of(texts.get("annotator"), self._whose, where)
        seconds = seconds_of(texts.get("seconds"), where)
        for place in shape.get("points", "").split(";"):
            x, comma, y = place.partition(",")
            if not comma:
                raise UserError(f"{where}: points {told(place)}: must be like 12.50,7.50: mend it")
            pixel = number(x, "x", where), number(y, "y", where)
            if self._known:
                pixel = pixel_of(*pixel, self._pictures.size(self._image), where)
            x_y = (int(pixel[0]), int(pixel[1]))
            found = Found(self._image, *x_y, answer, annotator, seconds, texts.get("time", ""))
            self.found.append(found)
