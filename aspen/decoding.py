"""What msgspec raises for octets that are not what they should be.

`ValidationError` is a `DecodeError`; but text that isn't UTF-8 raises Python's own error, and nesting beyond
what the stack bears another one. Whoever decodes what others wrote catches all of them by this name.
"""

from __future__ import annotations

from typing import Final

import msgspec

UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""For `except`: raised by msgspec's decoders, MessagePack and JSON, for any bytes whatever."""
