"""A window that shows pictures, through tkinter."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitfront.errors import DeviceError, one_line

__all__ = ["Window"]

SHARE = 0.9
"""Of the screen that a picture takes at most."""
PAUSE_S = 0.02


class Window:
    """Shows one picture after the other until it is closed; use as a context."""

    def __init__(self, title: str) -> None:
        """Open it. Raises DeviceError where there is no display."""
        try:
            import tkinter

            from PIL import ImageTk
        except ImportError as error:
            raise DeviceError(
                f"no window can be shown: {one_line(str(error))}", hint="install Python's tkinter, or --save pictures"
            ) from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise DeviceError(
                f"no window can be shown: {one_line(str(error))}", hint="--save pictures, and look at them elsewhere"
            ) from error
        self._closed: type[Exception] = tkinter.TclError
        self._photo: Any = ImageTk.PhotoImage
        self._root.title(title)
        self._label = tkinter.Label(self._root)
        self._label.pack()
        self._root.bind("<Key>", self._go_on)
        self.is_open, self._waiting = True, False
        self._shown: Any = None
        self._root.protocol("WM_DELETE_WINDOW", self._close)

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(self._closed):
            self._root.destroy()

    def show(self, image: NDArray[np.uint8], *, wait: bool = False) -> bool:
        """Show uint8 ``(h, w, 3)``, with ``wait`` until a key is pressed; returns whether the window is still open."""
        if not self.is_open:
            return False
        picture = Image.fromarray(image)
        picture.thumbnail((int(self._root.winfo_screenwidth() * SHARE), int(self._root.winfo_screenheight() * SHARE)))
        self._shown = self._photo(picture)  # tk keeps no reference
        self._label.configure(image=self._shown)
        self._waiting = wait
        self._root.update()
        while self._waiting and self.is_open:
            self._root.update()
            time.sleep(PAUSE_S)
        return self.is_open

    def _go_on(self, _event: object) -> None:
        self._waiting = False

    def _close(self) -> None:
        self.is_open = False
