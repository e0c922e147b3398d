"""Word wrap of text that arrives in pieces. Pure."""

import unicodedata


class WordWrap:
    """Holds back the word in progress and breaks lines between words. width: columns of the terminal."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._column = 0
        self._gap = ""
        self._word = ""

    def feed(self, text: str) -> str:
        """What can be shown now."""
        shown = []
        for character in text:
            if character == "\n":
                shown += [self._take(), "\n"]
                self._column, self._gap = 0, ""
            elif character.isspace():
                shown.append(self._take())
                self._gap += character
            else:
                self._word += character
                if cells(character) == 2:  # scripts without blanks break anywhere
                    shown.append(self._take())
        return "".join(shown)

    def finish(self) -> str:
        """The last word."""
        return self._take()

    def _take(self) -> str:
        word, gap = self._word, self._gap
        if not word:
            return ""
        self._word = self._gap = ""
        if self._column and self._column + cells(gap) + cells(word) > self._width:
            self._column = self._folded(cells(word))
            return "\n" + word
        self._column = self._folded(self._column + cells(gap) + cells(word))
        return gap + word

    def _folded(self, column: int) -> int:
        """Where the terminal's own folding leaves the cursor; a full line counts as full, not as a new one."""
        return column if column <= self._width else (column - 1) % self._width + 1


def cells(text: str) -> int:
    """Columns that a text takes: wide characters two, combining ones none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
