#!/usr/bin/env python3
"""Open a page in a real browser, light and dark, wide and narrow; say what happened, and take pictures.

    look_at_page.py CHROMIUM PAGE FOLDER

Prints JSON: messages of the console, errors of the page, requests besides the page itself, and what is seen.
"""
import json
import os
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

chromium, page_path, folder = sys.argv[1:4]
url = Path(page_path).resolve().as_uri()
found = {"console": [], "errors": [], "requests": [], "views": []}
SEEN = """() => {
  const size = e => { const r = e.getBoundingClientRect(); return [r.width, r.height]; };
  const contrast = getComputedStyle(document.body);
  return {
    title: document.title,
    headings: [...document.querySelectorAll('h2')].map(e => e.textContent),
    charts: [...document.querySelectorAll('svg')].map(size),
    marks: document.querySelectorAll('svg .line, svg .steps, svg .dot').length,
    strokes: [...document.querySelectorAll('svg .line')].map(e => getComputedStyle(e).stroke),
    rows: document.querySelectorAll('tbody tr').length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    colour: contrast.color, background: contrast.backgroundColor,
  };
}"""

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    found["version"] = browser.version
    for scheme in ("light", "dark"):
        for name, width in (("wide", 1280), ("narrow", 420)):
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
            page = context.new_page()
            page.on("console", lambda message: found["console"].append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: found["errors"].append(str(error)))
            page.on("requestfailed", lambda request: found["errors"].append(f"failed: {request.url}"))
            page.on("request", lambda request: found["requests"].append(request.url) if request.url != url else None)
            page.goto(url, wait_until="load")
            page.wait_for_timeout(200)
            picture = os.path.join(folder, f"{scheme}-{name}.png")
            page.screenshot(path=picture, full_page=True)
            found["views"].append({"scheme": scheme, "width": width, "picture": picture, **page.evaluate(SEEN)})
            context.close()
    browser.close()
json.dump(found, sys.stdout)
