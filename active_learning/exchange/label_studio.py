"""Label Studio: tasks as JSON, with a keypoint a pixel.

A place is told in percent of the picture's own width and height, a pixel's by its centre. Answers
are annotations, one an annotator (`tasks.by_opinion`); open questions are a prediction, labelled
"Asked", which an annotator takes over and labels. The picture's address is that of Label Studio's
local storage, with the data root as its root; ``data.name`` is the image. What Label Studio does
not know of (annotator, seconds, time, round) stands in the keypoint's ``meta``; without it its own
user and lead time take the place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

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
    by_opinion,
    number,
    pixel_of,
    read_mark,
    seconds_of,
    told,
    write_parts,
)
from utils.errors import UserError
from utils.files import read_up_to, write_text

KIND = "keypointlabels"
LOCAL_FILES = "/data/local-files/?d="
LABELLING = """<View>
  <KeyPointLabels name="answer" toName="picture" strokeWidth="2" opacity="0.9">
{labels}
  </KeyPointLabels>
  <Image name="picture" value="$image" zoom="true" zoomControl="true"/>
</View>
""".replace(
    "{labels}",
    "\n".join(
        f'    <Label value="{label}" background="{colour}"/>' for label, colour in COLOURS.items()
    ),
)
"""The labelling interface that the tasks are for."""


def percent(place: int, size: int) -> float:
    """Return where the centre of a pixel lies, in percent of the picture's width or height."""
    return 100 * (place + 0.5) / size


def write(path: Path, tasks: Sequence[Task]) -> list[Path]:
    """Write tasks, one a line; beside them, as ``<name>.config.xml``, the labelling interface.

    Returns:
        The files of tasks, see `write_parts`.
    """
    texts = (json.dumps(_task(task), ensure_ascii=False) for task in tasks)
    written = write_parts(path, texts, lambda part: "[\n" + ",\n".join(part) + "\n]\n")
    write_text(path.with_suffix(".config.xml"), LABELLING)
    return written


def _task(task: Task) -> dict[str, Any]:
    data = {"image": LOCAL_FILES + quote(task.path), "name": task.image}
    annotations = [
        {
            "result": [_keypoint(task, asked, answer) for asked, answer in answers],
            "was_cancelled": False,
            "ground_truth": False,
        }
        for _, answers in by_opinion(task)
    ]
    still = [_keypoint(task, asked, None) for asked in task.asked if not asked.answers]
    predictions = [{"model_version": "asked", "result": still}] if still else []
    return {"data": data, "annotations": annotations, "predictions": predictions}


def _keypoint(task: Task, asked: Asked, answer: Answer | None) -> dict[str, Any]:
    value = {
        "x": percent(asked.x, task.width),
        "y": percent(asked.y, task.height),
        "width": 0.5,
        KIND: [MARKS[answer.answer] if answer else ASKED],
    }
    meta: dict[str, Any] = {"round": asked.round}
    if answer:
        meta |= {"annotator": answer.annotator, "seconds": answer.seconds, "time": answer.time}
    return {
        "id": f"{asked.x}-{asked.y}",
        "from_name": "answer",
        "to_name": "picture",
        "type": KIND,
        "original_width": task.width,
        "original_height": task.height,
        "image_rotation": 0,
        "value": value,
        "meta": meta,
    }


def read(path: Path, pictures: Pictures, whose: Whose) -> list[Found]:
    """Read the answers of tasks that Label Studio exported (JSON, not JSON-MIN).

    Cancelled annotations, predictions and marks other than keypoints are passed over. An answer is
    by the annotator of its ``meta``, else by Label Studio's user, unless ``whose`` says otherwise;
    where nobody measured its seconds, they are the annotation's ``lead_time``, shared evenly.

    Raises:
        UserError: the file cannot be read, or holds what cannot be meant; names the place.
    """
    try:
        tasks = json.loads(read_up_to(path, MOST_BYTES).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({told(str(error))}): mend it") from None
    found = []
    for index, task in enumerate(_list(tasks, str(path)), start=1):
        where = f"{path}, task {index}"
        data = _object(_object(task, where).get("data"), f"{where}, data")
        image = _image_of(data, pictures, where)
        for place, annotation in enumerate(_list(task.get("annotations", []), where), start=1):
            at = f"{where}, annotation {place}"
            found += _answers(_object(annotation, at), image, pictures, whose, at)
    return found


def _image_of(data: dict[str, Any], pictures: Pictures, where: str) -> str:
    """Return the image of a task: of the trial by its name there, of others as it is told."""
    name, address = data.get("name"), data.get("image")
    if isinstance(name, str) and pictures.find(name):
        return pictures.find(name) or ""
    if not isinstance(address, str):
        raise UserError(f"{where}: neither name nor image is told in its data: mend it")
    try:
        parts = urlsplit(address)
        path = "".join(parse_qs(parts.query).get("d", [])) or unquote(parts.path)
    except ValueError:
        raise UserError(f"{where}: image {told(address)} is no address: mend it") from None
    return pictures.find(path) or address


def _answers(
    annotation: dict[str, Any], image: str, pictures: Pictures, whose: Whose, where: str
) -> Iterator[Found]:
    if annotation.get("was_cancelled"):
        return
    marks = [
        _object(mark, f"{where}, mark {place}")
        for place, mark in enumerate(_list(annotation.get("result", []), where), start=1)
    ]
    lead_time = seconds_of(annotation.get("lead_time"), where) / max(len(marks), 1)
    user = annotation.get("completed_by")
    user = user.get("email") if isinstance(user, dict) else user
    by = f"labelstudio:{user}" if isinstance(user, (str, int)) and user != "" else ""
    for place, mark in enumerate(marks, start=1):
        at = f"{where}, mark {place}"
        if mark.get("type") != KIND:
            continue
        value = _object(mark.get("value"), f"{at}, value")
        labels = _list(value.get(KIND), at)
        answer = read_mark(labels[0] if len(labels) == 1 else labels, at)
        if not answer:
            continue
        meta = mark.get("meta") if isinstance(mark.get("meta"), dict) else {}
        annotator = annotator_of(meta.get("annotator") or by, whose, at)
        measured = meta.get("seconds")
        seconds = lead_time if measured is None else seconds_of(measured, at)
        time = meta.get("time") if isinstance(meta.get("time"), str) else ""
        x, y = _pixel(mark, value, image, pictures, at)
        yield Found(image, x, y, answer, annotator, seconds, time or "")


def _pixel(
    mark: dict[str, Any], value: dict[str, Any], image: str, pictures: Pictures, where: str
) -> tuple[int, int]:
    x, y = (number(value.get(name), name, where) for name in ("x", "y"))
    if mark.get("image_rotation"):
        raise UserError(f"{where}: the picture was turned there: turn it back, mark it again")
    if pictures.find(image) != image:
        return 0, 0  # none of the trial's: counted, and not looked at
    size = pictures.size(image)
    if "original_width" in mark and "original_height" in mark:
        theirs = (number(mark[f"original_{name}"], name, where) for name in ("width", "height"))
        pictures.check_size(image, *theirs, where)
    return pixel_of(x / 100 * size[0], y / 100 * size[1], size, where)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{where}: {told(value)} where a list should be: mend the file")
    return value


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {told(value)} where an object should be: mend the file")
    return value
