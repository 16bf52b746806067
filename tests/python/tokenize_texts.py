"""The reference for tokenisation: texts on standard input, digests of their ids as `transformers` gives them.

Input: {"folders": [...], "texts": [...]}. Output: {folder: {"fast": [digest], "auto": [digest] or an error's text}}, where
`fast` is PreTrainedTokenizerFast of the folder, `auto` what AutoTokenizer makes of it, and a digest is the sha256 of the
ids joined by commas.
"""

import hashlib
import json
import sys

from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

logging.set_verbosity_error()


def digests(tokenizer, texts):
    encoded = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    return [hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest() for ids in encoded]


wanted = json.load(sys.stdin)
found = {}
for folder in wanted["folders"]:
    found[folder] = {"fast": digests(PreTrainedTokenizerFast.from_pretrained(folder), wanted["texts"])}
    try:
        auto = AutoTokenizer.from_pretrained(folder)
        found[folder]["auto"] = digests(auto, wanted["texts"])
        found[folder]["class"] = type(auto).__name__
    except Exception as error:  # what it cannot load is not for us to judge
        found[folder]["auto"] = repr(error)
json.dump(found, sys.stdout)
