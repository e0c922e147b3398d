"""What kind of thing the bytes of an attachment are. Clients send sound in the field for images.

Source: the file formats' own first bytes: RIFF/WAVE; MP3 with an ID3 tag, or with a frame's sync word
(ISO/IEC 11172-3, section 2.4.1.3).
"""

_LAYER_III_MASK = 0b1110_0110
_LAYER_III = 0b1110_0010


def audio_format(data: bytes) -> str:
    """Of sound its format, "wav" or "mp3"; "" for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    is_frame = len(data) > 1 and data[0] == 0xFF and data[1] & _LAYER_III_MASK == _LAYER_III
    return "mp3" if is_frame or data[:3] == b"ID3" else ""
