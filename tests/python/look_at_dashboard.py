#!/usr/bin/env python3
"""Use the page of a running `harvestd serve` in a real browser: read it, search it, steer with it; take pictures.

    look_at_dashboard.py CHROMIUM ADDRESS TOKEN PIPELINE TRAINER FOLDER

PIPELINE runs and has the trainer TRAINER. Prints JSON with what happened.
"""
import json
import sys

from playwright.sync_api import sync_playwright

chromium, address, token, pipeline, trainer, folder = sys.argv[1:7]
found = {"console": [], "errors": [], "foreign_requests": [], "views": [], "nameless": [], "contrast": []}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# controls and pictures that say nothing to those who do not see them
NAMELESS = """() => [...document.querySelectorAll('a, button, input, select, svg[role=img], dialog[open]')].filter(e => e.getClientRects().length
  && !((e.getAttribute('aria-label') || e.textContent || (e.labels && [...e.labels].map(l => l.textContent).join('')) || '').trim())).map(e => e.outerHTML.slice(0, 120))"""
# text whose contrast with what is behind it is below 4.5 (3 where it is large)
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255]; };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const light = c => { const f = c.slice(0, 3).map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
  const bad = new Map();
  for (const e of document.querySelectorAll('body *')) {
    const text = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
    if (!text || !e.getClientRects().length || e.closest('button:disabled, [hidden], .heard, .skip, noscript')) continue;
    const style = getComputedStyle(e), layers = [];
    for (let at = e; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    const back = layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
    const fore = over(rgba(e.namespaceURI.endsWith('svg') ? style.fill : style.color), back);
    const [a, b] = [light(fore), light(back)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) bad.set(`${e.className.baseVal ?? e.className} ${e.tagName}`, `${text.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return [...bad];
}"""


def picture(page, name, full=True):
    path = f"{folder}/dashboard-{name}.png"
    page.screenshot(path=path, full_page=full)
    found["views"].append({"picture": path, "overflow": page.evaluate(OVERFLOW)})
    found["nameless"] += [f"{name}: {html}" for html in page.evaluate(NAMELESS)]
    found["contrast"] += [f"{name}: {what}" for what in page.evaluate(CONTRAST)]


def watch(page):
    page.on("console", lambda message: found["console"].append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: found["errors"].append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((f"http://{address}/", "data:")) else found["foreign_requests"].append(r.url))


def go(page, hash, wait):
    page.goto(f"http://{address}/#/{hash}", wait_until="load")
    page.locator(wait).first.wait_for(timeout=60_000)


def features(page):
    go(page, f"p/{pipeline}/t/{trainer}", ".latents li")
    share = lambda text: float(text.split("\u202f%")[0])
    page.locator(".latents .context b").first.wait_for(timeout=60_000)
    densities = [share(text) for text in page.locator(".latents li .barline .sub").all_inner_texts()]
    found["falling"] = densities == sorted(densities, reverse=True) and len(densities) > 10
    found["bins"] = page.locator("[data-key=densities] rect").count()
    picture(page, f"features-{page.scheme}-{page.size}")
    page.get_by_label("Order").select_option("density asc")
    page.wait_for_function("() => { const t = [...document.querySelectorAll('.latents .barline .sub')].map(e => parseFloat(e.textContent)); return t.length > 10 && t[0] < t[t.length - 1]; }")
    box = page.get_by_role("searchbox")
    box.focus()
    page.keyboard.type("whal")
    page.wait_for_function("() => [...document.querySelectorAll('.latents li')].every(li => /whal/i.test(li.querySelector('.chips').textContent))")
    found["hits"] = page.locator(".latents li").count()
    found["typed"] = box.input_value()
    box.fill("no such token anywhere")
    page.get_by_text("No latent fits.").wait_for()
    box.fill("")
    page.get_by_label("Order").select_option("density desc")
    page.wait_for_function("() => document.querySelectorAll('.latents li').length > 10")


def feature(page):
    link = page.locator(".latents .id").first
    found["clicked"] = link.inner_text()
    link.focus()
    page.keyboard.press("Enter")
    page.locator(".contexts li").first.wait_for()
    page.locator(".tokens li").first.wait_for(timeout=90_000)
    found["feature"] = {
        "heading": page.locator("h1").inner_text(),
        "contexts": page.locator(".contexts li").count(),
        "shaded": page.locator(".contexts b").count(),
        "shades": page.locator(".contexts b").evaluate_all("all => new Set(all.map(b => getComputedStyle(b).backgroundColor)).size"),
        "promoted": page.locator(".tokens").first.locator("li").count(),
        "bars": page.locator("[data-key=sizes] rect").count(),
        "focus": page.evaluate("document.activeElement.id"),
    }
    picture(page, f"feature-{page.scheme}-{page.size}")


def chart_by_keyboard(page):
    chart = page.locator("[data-chart=fvu]")
    chart.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    found["tip"] = page.locator("#tip").inner_text()
    found["heard"] = page.locator("#heard").inner_text()
    page.keyboard.press("Escape")
    found["tip_gone"] = page.locator("#tip").is_hidden()


def steer(page):
    """Pause without a token, with a wrong one, with the right one; and go on."""
    go(page, f"p/{pipeline}", ".stage")
    page.get_by_role("button", name=f"Pause: {pipeline}").click()
    page.get_by_label("Token", exact=True).fill("not-the-token-0123456789")
    page.keyboard.press("Enter")
    page.get_by_text("That is not the token.").wait_for()
    picture(page, f"token-{page.scheme}-{page.size}", full=False)
    page.get_by_label("Token", exact=True).fill(token)
    page.keyboard.press("Enter")
    page.locator(".head .badge.paused").wait_for(timeout=120_000)
    found["paused"] = True
    page.get_by_role("button", name=f"Stop: {pipeline}").count()
    page.get_by_role("button", name=f"Resume: {pipeline}").click()
    page.locator(".head .badge.running").wait_for(timeout=120_000)
    page.get_by_role("button", name=f"Stop: {pipeline}").click()
    found["asks_before_stopping"] = page.locator("#sure").is_visible()
    page.locator("#sure").get_by_role("button", name="Cancel").click()
    found["still"] = page.locator(".head .badge").first.inner_text()


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    for scheme in ("light", "dark"):
        for size, width in (("wide", 1280), ("narrow", 390)):
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce")
            page = context.new_page()
            page.scheme, page.size = scheme, size
            watch(page)
            go(page, "", ".card")
            page.keyboard.press("Tab")
            found["first_focus"] = page.evaluate("document.activeElement.textContent")
            found["cards"] = dict(zip(page.locator(".card h2").all_inner_texts(), page.locator(".card .badge").all_inner_texts()))
            picture(page, f"overview-{scheme}-{size}")
            page.get_by_role("link", name=pipeline, exact=True).first.click()
            page.locator("[data-chart=fvu] .line").first.wait_for(timeout=120_000)
            page.locator("[data-chart=throughput]").wait_for(timeout=60_000)
            found["stages"] = page.locator(".stage h3").all_inner_texts()
            found["lines"] = {id: page.locator(f"[data-chart={id}] .line").count() for id in ("loss", "fvu", "l0", "dead", "throughput")}
            found["bottleneck"] = page.locator(".bottleneck").first.inner_text()
            picture(page, f"pipeline-{scheme}-{size}")
            chart_by_keyboard(page)
            features(page)
            feature(page)
            context.close()
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.scheme, page.size = "light", "wide"
    # a wrong token is answered with 401, which the browser's console tells
    page.on("pageerror", lambda error: found["errors"].append(str(error)))
    steer(page)
    page.locator("#theme").click()
    page.locator("#theme").click()
    found["dark_by_hand"] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    context.close()
    browser.close()
json.dump(found, sys.stdout)
