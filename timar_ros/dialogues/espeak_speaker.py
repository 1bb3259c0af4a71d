"""Speaks one sentence through libespeak-ng; a script that needs Python alone.

    python espeak_speaker.py VOICE RATE PITCH RANGE TEXT

RATE in words a minute, PITCH and RANGE 0 to 99, 50 being the voice's own. Prints a line of JSON, {"rate": Hz,
"phonemes": [[mnemonic, first sample], ..]}, then the sound as 16-bit samples. A sentence on stderr and status 1 when it
cannot.
"""

import ctypes
import ctypes.util
import json
import sys

# speak_lib.h
_SYNCHRONOUS, _PHONEME_EVENTS, _DONT_EXIT = 2, 0x0001, 0x8000
_RATE, _PITCH, _RANGE = 1, 3, 4
_LIST_ENDS, _PHONEME = 0, 7
_UTF8, _PHONEME_INPUT = 1, 0x0100


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def main(voice: str, rate: str, pitch: str, spread: str, text: str) -> None:
    try:
        library = ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
    except OSError as error:
        sys.exit(
            f"the speech synthesiser espeak-ng could not be loaded ({error}); some voices of dialogues are spoken by "
            "it; install it with: sudo apt install espeak-ng, or generate with --voices flite"
        )
    sample_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _DONT_EXIT)
    if sample_rate <= 0:
        sys.exit(
            "espeak-ng was found without its data; expected espeak-ng-data; install it with: "
            "sudo apt install espeak-ng-data, or generate with --voices flite"
        )
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        sys.exit(
            f"espeak-ng has no voice '{voice}'; expected version 1.51 or later with English and its variants; "
            "list yours with: espeak-ng --voices=variant, or generate with --voices flite"
        )
    sound: list[bytes] = []
    phonemes: list[tuple[str, int]] = []

    @_Callback
    def take(wave, count, events):
        if wave and count > 0:
            sound.append(ctypes.string_at(wave, 2 * count))
        place = 0
        while events[place].type != _LIST_ENDS:
            if events[place].type == _PHONEME:
                phonemes.append((events[place].id.string.decode(errors="replace"), events[place].sample))
            place += 1
        return 0

    library.espeak_SetSynthCallback(take)
    for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, spread)):
        library.espeak_SetParameter(parameter, int(value), 0)
    encoded = text.encode()
    if library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8 | _PHONEME_INPUT, None, None) != 0:
        sys.exit(f"espeak-ng could not speak {text!r} with the voice '{voice}'; try: espeak-ng -v {voice} {text!r}")
    sys.stdout.buffer.write(json.dumps({"rate": sample_rate, "phonemes": phonemes}).encode() + b"\n" + b"".join(sound))


if __name__ == "__main__":
    main(*sys.argv[1:])
