#!/usr/bin/env python3
"""Use the pages of a coder's features in a real browser, as files: sort, search, follow links; take pictures.

    look_at_features.py CHROMIUM FOLDER

Prints JSON with what happened.
"""
import json
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

chromium, folder = sys.argv[1], Path(sys.argv[2]).resolve()
found = {"console": [], "errors": [], "foreign_requests": [], "views": []}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def column(page, n):
    cells = page.locator(f"#table tbody tr > :nth-child({n})").all_inner_texts()
    return [float(cell.rstrip("%")) for cell in cells]


def picture(page, name, **more):
    path = str(folder / f"{name}.png")
    page.screenshot(path=path, **more)
    found["views"].append({"picture": path, "overflow": page.evaluate(OVERFLOW)})


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    for scheme in ("light", "dark"):
        for size, width in (("wide", 1280), ("narrow", 420)):
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
            page = context.new_page()
            page.on("console", lambda message: found["console"].append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: found["errors"].append(str(error)))
            page.on("requestfailed", lambda request: found["errors"].append(f"failed: {request.url}"))
            page.on("request", lambda r: None if r.url.startswith(folder.as_uri()) else found["foreign_requests"].append(r.url))
            page.goto((folder / "index.html").as_uri(), wait_until="load")
            picture(page, f"features-index-{scheme}-{size}")
            densities = column(page, 2)
            found["falling"] = densities == sorted(densities, reverse=True) and len(densities) > 10
            page.get_by_role("button", name="density").click()
            rising = column(page, 2)
            found["rising"] = rising == sorted(rising) and rising != densities
            page.get_by_role("button", name="density").click()
            page.get_by_label("those that never fired too").check()
            found["all"] = int(page.locator("#said").inner_text().split(" of ")[1].split()[0])
            page.get_by_label("those that never fired too").uncheck()
            page.get_by_role("searchbox").fill("whal")
            found["hits"] = int(page.locator("#said").inner_text().split(" of ")[1].split()[0])
            marks = page.locator("#table tbody tr").evaluate_all("rows => rows.map(r => [...r.querySelectorAll('mark')].map(m => m.textContent.toLowerCase()))")
            found["every_hit_has_it"] = all(row and all("whal" in mark for mark in row) for row in marks)
            page.get_by_role("searchbox").fill("no such token anywhere")
            found["none"] = page.locator("#said").inner_text()
            page.get_by_role("searchbox").fill("")
            link = page.locator("#table tbody tr:first-child a")
            found["clicked"] = link.inner_text()
            link.click()
            page.wait_for_load_state("load")
            section = page.locator(f"#f{found['clicked']}")
            backgrounds = section.locator(".text b").evaluate_all("all => [...new Set(all.map(b => getComputedStyle(b).backgroundColor))].length")
            picture(page, f"features-page-{scheme}-{size}")
            neighbour = section.locator(".list a").first
            target = neighbour.inner_text()
            found["page"] = {
                "heading": section.locator("h2").inner_text(),
                "shaded": section.locator(".text b").count(),
                "backgrounds": backgrounds,
                "charts": section.locator("svg").count(),
                "contexts": section.locator(".contexts li").count(),
                "neighbour": target,
            }
            neighbour.click()
            page.wait_for_load_state("load")
            found["page"]["arrived"] = page.locator(":target h2").inner_text().removeprefix("Latent ")
            page.goto((folder / "pages/00000.html").as_uri(), wait_until="load")
            found["page"]["next"] = page.get_by_role("link", name="after").first.get_attribute("href")
            context.close()
    browser.close()
json.dump(found, sys.stdout)
