"""The reference for conversations: what `transformers` makes of them.

Input: {"pairs": [{"folder", "template" or null}], "conversations": [[message]]}. Output: for each pair a list with, for each
conversation, {"text", "ids", "mask" where the template has generation tags} or {"error"}. The date that some templates
write is left to them: `strftime_now` is taken away, as it is in harvestd.
"""

import json
import re
import sys

import jinja2
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils, logging

logging.set_verbosity_error()

compile_template = chat_template_utils._compile_jinja_template


def without_the_day(source):
    template = compile_template(source)
    template.environment.globals.pop("strftime_now", None)
    template.globals.pop("strftime_now", None)
    return template


chat_template_utils._compile_jinja_template = without_the_day


def answer(tokenizer, messages, template):
    source = template or tokenizer.chat_template
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=template)
    except (jinja2.TemplateError, TypeError) as error:
        return {"error": repr(error)}
    tagged = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None
    out = tokenizer.apply_chat_template(messages, chat_template=template, return_assistant_tokens_mask=tagged)
    found = {"text": text, "ids": out["input_ids"]}
    return found | ({"mask": out["assistant_masks"]} if tagged else {})


wanted = json.load(sys.stdin)
answers = []
for pair in wanted["pairs"]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(pair["folder"])
    answers.append([answer(tokenizer, messages, pair["template"]) for messages in wanted["conversations"]])
json.dump(answers, sys.stdout)
