//! Plots as SVG: lines, labelled dots and histograms over linear or logarithmic axes.

use std::fmt::Write;

use super::html::{escaped, number};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 46.0;
/// Colours that series go through.
pub const COLOURS: usize = 8;

/// How the points of a series are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Joined by lines.
    Line,
    /// Each a dot with the series' name.
    Dot,
    /// Lower edges of bins and what is in them, as a filled outline.
    Steps,
}

/// Points of one colour.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its colour: an index, modulo [`COLOURS`].
    pub colour: usize,
    /// What is drawn.
    pub points: Vec<(f64, f64)>,
}

/// An axis.
#[derive(Clone, Copy, Debug)]
pub struct Axis<'a> {
    /// What it shows, with its unit.
    pub label: &'a str,
    /// Whether it is logarithmic; points at or below 0 are then left out.
    pub log: bool,
    /// Whether it begins at 0, if it is linear.
    pub from_zero: bool,
}

/// The range of an axis and where its values lie on the page.
struct Scale {
    log: bool,
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Scale {
    fn new(axis: Axis<'_>, values: impl Iterator<Item = f64>, start: f64, end: f64) -> Option<Self> {
        let to_scale = |x: f64| if axis.log { x.log10() } else { x };
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        for x in values.map(to_scale).filter(|x| x.is_finite()) {
            (from, to) = (from.min(x), to.max(x));
        }
        if from > to {
            return None;
        }
        if axis.from_zero && !axis.log {
            (from, to) = (from.min(0.0), to.max(0.0));
        }
        // some room, and something to show where all values are the same
        let room = match from.abs() {
            _ if to > from => 0.04 * (to - from),
            _ if axis.log => 0.3,
            0.0 => 1.0,
            size => 0.5 * size,
        };
        let stays = axis.from_zero && !axis.log && from == 0.0;
        Some(Self { log: axis.log, from: if stays { 0.0 } else { from - room }, to: to + room, start, end })
    }

    fn at(&self, x: f64) -> Option<f64> {
        let x = if self.log { x.log10() } else { x };
        let share = (x - self.from) / (self.to - self.from);
        share.is_finite().then_some(self.start + share * (self.end - self.start))
    }

    /// Round values in the range.
    fn ticks(&self) -> Vec<f64> {
        if !self.log {
            return even_ticks(self.from, self.to);
        }
        let decades: Vec<i32> = (self.from.ceil() as i32..=self.to.floor() as i32).collect();
        if decades.len() >= 3 {
            let every = decades.len().div_ceil(7);
            return decades.iter().step_by(every).map(|&p| 10f64.powi(p)).collect();
        }
        let around = self.from.floor() as i32..=self.to.ceil() as i32;
        let all = around.flat_map(|p| [1.0, 2.0, 3.0, 5.0].map(|m| m * 10f64.powi(p)));
        let ticks: Vec<f64> = all.filter(|x| (self.from..=self.to).contains(&x.log10())).collect();
        // within a decade values lie nearly as on a linear axis
        if ticks.len() >= 3 { ticks } else { even_ticks(10f64.powf(self.from), 10f64.powf(self.to)) }
    }
}

/// Multiples of 1, 2 or 5 times a power of ten between two values, about five.
fn even_ticks(from: f64, to: f64) -> Vec<f64> {
    let rough = (to - from) / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough).unwrap_or(rough);
    let first = (from / step).ceil() as i64;
    (0..=12).map(|i| (first + i) as f64 * step).take_while(|x| *x <= to).collect()
}

/// The plot, named `title` for those who hear the page; `None` if there is nothing to draw.
pub fn chart(title: &str, mark: Mark, x: Axis<'_>, y: Axis<'_>, series: &[Series]) -> Option<String> {
    let drawn = |point: &&(f64, f64)| {
        let fits = |v: f64, axis: Axis<'_>| v.is_finite() && (!axis.log || v > 0.0);
        fits(point.0, x) && fits(point.1, y)
    };
    let points = || series.iter().flat_map(|s| s.points.iter().filter(drawn));
    let across = Scale::new(x, points().map(|p| p.0), LEFT, WIDTH - RIGHT)?;
    // names stand above their dots
    let top = if mark == Mark::Dot { TOP + 14.0 } else { TOP };
    let up = Scale::new(y, points().map(|p| p.1), HEIGHT - BOTTOM, top)?;
    let title = escaped(title);
    let mut out = format!(
        "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">"
    );
    axes(&mut out, (x, &across), (y, &up));
    for series in series {
        let place = |point: &(f64, f64)| Some((across.at(point.0)?, up.at(point.1)?));
        let places: Vec<(f64, f64)> = series.points.iter().filter(drawn).filter_map(place).collect();
        let class = series.colour % COLOURS;
        match mark {
            Mark::Line => line(&mut out, &places, class),
            Mark::Steps => steps(&mut out, &places, class, up.start),
            Mark::Dot => dots(&mut out, series, &places, class),
        }
    }
    out.push_str("</svg>");
    if mark != Mark::Dot && series.len() > 1 {
        out.push_str("<p class=\"legend\">");
        for s in series {
            put(&mut out, format_args!("<span class=\"key c{}\"></span>{} ", s.colour % COLOURS, escaped(&s.name)));
        }
        out.push_str("</p>");
    }
    out.push_str("</figure>");
    Some(out)
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes whatever is written");
}

fn axes(out: &mut String, (x, across): (Axis<'_>, &Scale), (y, up): (Axis<'_>, &Scale)) {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for (tick, at) in up.ticks().into_iter().filter_map(|tick| Some((tick, up.at(tick)?))) {
        put(out, format_args!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"));
        let (left, text) = (LEFT - 6.0, short(tick));
        put(
            out,
            format_args!("<text class=\"tick\" x=\"{left}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", at + 4.0),
        );
    }
    for (tick, at) in across.ticks().into_iter().filter_map(|tick| Some((tick, across.at(tick)?))) {
        put(out, format_args!("<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>"));
        let (below, text) = (bottom + 16.0, short(tick));
        put(out, format_args!("<text class=\"tick\" x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{text}</text>"));
    }
    put(out, format_args!("<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>"));
    let (middle, below) = ((LEFT + right) / 2.0, HEIGHT - 8.0);
    let label = escaped(x.label);
    put(out, format_args!("<text class=\"label\" x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">{label}</text>"));
    let (middle, label) = ((TOP + bottom) / 2.0, escaped(y.label));
    put(
        out,
        format_args!(
            "<text class=\"label\" transform=\"translate(13 {middle}) rotate(-90)\" text-anchor=\"middle\">{label}</text>"
        ),
    );
}

/// A tick's value in few characters.
fn short(x: f64) -> String {
    for (size, letter) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if x.abs() >= size {
            return format!("{}{letter}", trimmed(x / size));
        }
    }
    if x != 0.0 && x.abs() < 1e-3 { format!("{x:.1e}").replace(".0e", "e") } else { trimmed(x) }
}

fn trimmed(x: f64) -> String {
    let text = format!("{x:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn line(out: &mut String, places: &[(f64, f64)], class: usize) {
    let path: String = places
        .iter()
        .enumerate()
        .map(|(i, (x, y))| format!("{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' }))
        .collect();
    put(out, format_args!("<path class=\"line c{class}\" d=\"{path}\"/>"));
}

/// Bins from each point to the next; the last is as wide as the one before.
fn steps(out: &mut String, places: &[(f64, f64)], class: usize, bottom: f64) {
    let (Some(first), [.., before, last]) = (places.first(), places) else { return };
    let mut path = format!("M{:.1} {bottom:.1}", first.0);
    for (i, (x, y)) in places.iter().enumerate() {
        let end = places.get(i + 1).map_or(last.0 + (last.0 - before.0), |next| next.0);
        put(&mut path, format_args!("L{x:.1} {y:.1}L{end:.1} {y:.1}"));
    }
    put(&mut path, format_args!("V{bottom:.1}"));
    put(out, format_args!("<path class=\"steps c{class}\" d=\"{path}\"/>"));
}

fn dots(out: &mut String, series: &Series, places: &[(f64, f64)], class: usize) {
    let name = escaped(&series.name);
    for ((x, y), (a, b)) in places.iter().zip(&series.points) {
        let said = format!("{name}: {} / {}", number(*a), number(*b));
        put(
            out,
            format_args!(
                "<circle class=\"dot c{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"><title>{said}</title></circle>"
            ),
        );
        // to the side where there is room
        let (at, anchor) = if *x > WIDTH * 0.6 { (x - 9.0, "end") } else { (x + 9.0, "start") };
        put(
            out,
            format_args!(
                "<text class=\"name\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{name}</text>",
                y - 7.0
            ),
        );
    }
}
