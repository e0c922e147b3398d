"""The templates of Ollama models: the part of Go's text/template that prompts are written in.

`parse(text)` gives a `Template`; see tree.py.

Deliberate limits
- No templates of templates: define, template and block are refused, and so is the function `call`.
- No complex numbers, no hexadecimal floats; unsigned numbers are ints. Whole numbers of the data stay ints, where Go
  would make floats of them (and print a million as 1e+06).
- Values have no methods; pointers print as what they point to; images print as `[img]`.
- A string cut within a character loses that character to U+FFFD; a byte escaped in a literal is a character.
- printf: see formatting.py. JSON: floats below 1e-4 are spelled with an exponent.
- Bounds, each refused by a TemplateError: the template's length, the depth of blocks and parentheses, the steps of a
  run, the length of its text, the width of a printed field.
"""

from ollamamax.core.modelspec.template.tree import Template, parse

__all__ = ["Template", "parse"]
